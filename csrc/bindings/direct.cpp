#include "bindings/direct.h"

#include <exception>

namespace skd {
namespace {

using namespace pybind11::literals;

constexpr char kLayerCapsule[] = "sparsekd.direct_layer";

// No memory lies below (a freed storage has base 0, to which the offset of a view is added); what
// does is looked at in Python.
constexpr std::uintptr_t kLowestAddress = std::uintptr_t{1} << 32;

// About 0.5 us on one core, against 0.05 us for releasing the GIL and taking it again.
constexpr std::int64_t kShortWork = 1 << 16;

py::object taken(PyObject* made) {
  if (made == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(made);
}

py::object called(const py::object& function, PyObject* const* args, std::size_t count) {
  return taken(PyObject_Vectorcall(function.ptr(), args, count, nullptr));
}

// An attribute by its descriptor, which saves the look-up by name.
py::object attribute(const py::object& descriptor, PyObject* object) {
  return taken(Py_TYPE(descriptor.ptr())->tp_descr_get(descriptor.ptr(), object, nullptr));
}

std::int64_t integer(const py::object& number) {
  const long long value = PyLong_AsLongLong(number.ptr());
  if (value == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return value;
}

py::object tuple_of(const std::int64_t* numbers, int count) {
  py::object tuple = taken(PyTuple_New(count));
  for (int i = 0; i < count; ++i) {
    PyTuple_SET_ITEM(tuple.ptr(), i, taken(PyLong_FromLongLong(numbers[i])).release().ptr());
  }
  return tuple;
}

int (*reader_of(const py::type& tensor))(void*, dlpack::Tensor*) {
  if (!py::hasattr(tensor, dlpack::kTypeAttribute)) return nullptr;
  const auto capsule = py::cast<py::capsule>(tensor.attr(dlpack::kTypeAttribute));
  void* pointer = PyCapsule_GetPointer(capsule.ptr(), dlpack::kCapsuleName);
  if (pointer == nullptr) throw py::error_already_set();
  const auto* api = static_cast<const dlpack::ExchangeApi*>(pointer);
  while (api != nullptr && api->major != dlpack::kMajorVersion) api = api->older;
  return api == nullptr ? nullptr : api->from_python;
}

// Whether these very objects are the dictionary's values, in order.
bool holds(PyObject* dictionary, const std::vector<PyObject*>& objects) {
  std::size_t index = 0;
  bool same = true;
  Py_ssize_t position = 0;
  PyObject* value = nullptr;
#if PY_VERSION_HEX >= 0x030D0000  // where there is no GIL, another thread may write to it
  Py_BEGIN_CRITICAL_SECTION(dictionary);
#endif
  while (same && PyDict_Next(dictionary, &position, nullptr, &value) != 0) {
    same = index < objects.size() && value == objects[index];
    ++index;
  }
#if PY_VERSION_HEX >= 0x030D0000
  Py_END_CRITICAL_SECTION();
#endif
  return same && index == objects.size();
}

void destroy_layer(PyObject* capsule) {
  delete static_cast<DirectLayer*>(PyCapsule_GetPointer(capsule, kLayerCapsule));
}

// self: (capsule of the layer, tensors).
PyObject* call_layer(PyObject* self, PyObject* const* args, Py_ssize_t count) {
  if (count != 2 || !PyDict_Check(args[1])) {
    PyErr_SetString(PyExc_TypeError, "a direct call takes an input and the layer's buffers");
    return nullptr;
  }
  void* layer = PyCapsule_GetPointer(PyTuple_GET_ITEM(self, 0), kLayerCapsule);
  if (layer == nullptr) return nullptr;
  try {
    py::object y = static_cast<const DirectLayer*>(layer)->call(args[0], args[1]);
    return y ? y.release().ptr() : py::none().release().ptr();
  } catch (py::error_already_set& error) {
    error.restore();
    return nullptr;
  } catch (const std::exception&) {  // the same call in Python meets it again and reports it
    return py::none().release().ptr();
  }
}

}  // namespace

Torch::Torch(const py::type& tensor, const py::tuple& observers, py::dict forward_ad,
             py::object num_threads)
    : type_(reinterpret_cast<PyTypeObject*>(tensor.ptr())),
      type_owner_(tensor),
      num_threads_(std::move(num_threads)),
      is_neg_(tensor.attr("is_neg")),
      is_inference_(tensor.attr("is_inference")),
      new_empty_strided_(tensor.attr("new_empty_strided")),
      version_(tensor.attr("_version")),
      requires_grad_(tensor.attr("requires_grad")),
      level_name_(py::str("_current_level")),
      forward_ad_(std::move(forward_ad)),
      read_(reader_of(tensor)) {
  for (const py::handle observer : observers) {
    observers_.push_back(py::reinterpret_borrow<py::object>(observer));
  }
  for (const py::object* descriptor : {&version_, &requires_grad_}) {
    require(Py_TYPE(descriptor->ptr())->tp_descr_get != nullptr,
            "torch.Tensor: an attribute that is no descriptor");
  }
}

bool Torch::may_run_directly(PyObject* x) const {
  if (Py_TYPE(x) != type_) return false;
  for (const py::object& observer : observers_) {
    const py::object seen = called(observer, nullptr, 0);
    if (!seen.is_none() && !(PyLong_Check(seen.ptr()) && integer(seen) == 0)) return false;
  }
  PyObject* level = PyDict_GetItemWithError(forward_ad_.ptr(), level_name_.ptr());
  if (level == nullptr || PyLong_AsLong(level) >= 0) return false;
  return attribute(requires_grad_, x).ptr() == Py_False && called(is_neg_, &x, 1).ptr() == Py_False;
}

bool Torch::read(PyObject* tensor, dlpack::Tensor* out) const {
  if (read_(tensor, out) == 0) return true;
  PyErr_Clear();
  return false;
}

std::int64_t Torch::version(PyObject* tensor) const { return integer(attribute(version_, tensor)); }

bool Torch::counts_versions(PyObject* tensor) const {
  return called(is_inference_, &tensor, 1).ptr() == Py_False;
}

py::object Torch::empty(PyObject* like, const std::int64_t* shape, const std::int64_t* strides,
                        int dims) const {
  const py::object sizes = tuple_of(shape, dims), steps = tuple_of(strides, dims);
  PyObject* const args[] = {like, sizes.ptr(), steps.ptr()};
  return called(new_empty_strided_, args, 3);
}

int Torch::num_threads() const {
  return static_cast<int>(integer(called(num_threads_, nullptr, 0)));
}

DirectLayer::DirectLayer(py::object torch, const py::tuple& tensors)
    : torch_owner_(std::move(torch)), torch_(py::cast<const Torch*>(torch_owner_)) {
  require(torch_->can_read(), "this torch has no DLPack functions, which direct calls need");
  for (const py::handle tensor : tensors) {
    tensors_.push_back(tensor.ptr());
    if (!tensor.is_none() && torch_->counts_versions(tensor.ptr())) {
      versions_.emplace_back(tensor.ptr(), torch_->version(tensor.ptr()));
    }
  }
}

py::object DirectLayer::call(PyObject* x, PyObject* buffers) const {
  dlpack::Tensor input;
  if (!torch_->may_run_directly(x) || !is_current(buffers) || !torch_->read(x, &input)) return {};
  return is_fp32(input) ? run(x, input) : py::object();
}

bool DirectLayer::is_current(PyObject* buffers) const {
  if (!holds(buffers, tensors_)) return false;
  for (const auto& [tensor, version] : versions_) {
    if (torch_->version(tensor) != version) return false;
  }
  return true;
}

py::object as_callable(std::unique_ptr<DirectLayer> layer, const py::tuple& tensors) {
  static PyMethodDef method{
      "direct_call", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&call_layer)),
      METH_FASTCALL, "f(x, buffers): the layer's output, or None where the call is declined"};
  const py::capsule capsule(layer.release(), kLayerCapsule, &destroy_layer);
  const py::tuple self = py::make_tuple(capsule, tensors);
  return taken(PyCFunction_New(&method, self.ptr()));
}

bool is_fp32(const dlpack::Tensor& x) {
  if (x.device.type != dlpack::kCpu || x.dtype.code != dlpack::kFloat || x.dtype.bits != 32 ||
      x.dtype.lanes != 1 || x.dims > kMostDims || x.strides == nullptr) {
    return false;
  }
  for (int d = 0; d < x.dims; ++d) {
    if (x.shape[d] == 0) return false;
  }
  return reinterpret_cast<std::uintptr_t>(data_of(x)) >= kLowestAddress;
}

bool is_row_major(const dlpack::Tensor& x) {
  std::int64_t stride = 1;
  for (int d = x.dims - 1; d >= 0; --d) {
    if (x.shape[d] != 1 && x.strides[d] != stride) return false;
    stride *= x.shape[d];
  }
  return true;
}

void row_major(const std::int64_t* shape, int dims, std::int64_t* strides) {
  std::int64_t stride = 1;
  for (int d = dims - 1; d >= 0; --d) {
    strides[d] = stride;
    stride *= shape[d] > 0 ? shape[d] : 1;
  }
}

float* data_of(const dlpack::Tensor& x) {
  return reinterpret_cast<float*>(static_cast<char*>(x.data) + x.byte_offset);
}

WithoutGil::WithoutGil(std::int64_t multiply_adds) {
  if (multiply_adds >= kShortWork) state_ = PyEval_SaveThread();
}

WithoutGil::~WithoutGil() {
  if (state_ != nullptr) PyEval_RestoreThread(state_);
}

void bind_direct(py::module_& m) {
  py::class_<Torch>(m, "Torch")
      .def(py::init<py::type, py::tuple, py::dict, py::object>(), "tensor"_a, "observers"_a,
           "forward_ad"_a, "num_threads"_a)
      .def_property_readonly("can_read", &Torch::can_read);
}

}  // namespace skd
