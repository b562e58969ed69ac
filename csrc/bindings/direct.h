// Direct calls: an eager call of a layer in one native function, because each step through Python
// costs as much as a small layer takes. A direct call checks that nothing in torch has to see the
// call, reads the input through DLPack, lets torch allocate the output and runs the layer. What it
// can not serve it declines with None; sparsekd.ops then does the call, or refuses it, in Python.
//
// The hot entry is a plain CPython function, since pybind11's dispatch would cost 0.2 us.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/dlpack.h"
#include "ops/linear.h"

namespace skd {

// What a direct call asks of torch. The extension does not link torch: sparsekd.ops hands over the
// functions, which are called through CPython.
class Torch {
 public:
  // observers: callables that give 0 or None while nothing has to see a call. forward_ad: the
  // globals of torch.autograd.forward_ad. tensor: torch.Tensor.
  Torch(const py::type& tensor, const py::tuple& observers, py::dict forward_ad,
        py::object num_threads);

  // Whether this torch has the DLPack functions; without them there are no direct calls.
  bool can_read() const { return read_ != nullptr; }

  // A plain tensor that is neither lazily negated nor tracked by autograd, while no mode, trace or
  // transform is active.
  bool may_run_directly(PyObject* x) const;

  // False for what DLPack can not describe, such as a sparse tensor.
  bool read(PyObject* tensor, dlpack::Tensor* out) const;
  std::int64_t version(PyObject* tensor) const;
  bool counts_versions(PyObject* tensor) const;  // inference tensors do not

  // An uninitialized tensor of the dtype of `like`, on the CPU.
  py::object empty(PyObject* like, const std::int64_t* shape, const std::int64_t* strides,
                   int dims) const;
  int num_threads() const;

 private:
  PyTypeObject* type_;
  py::object type_owner_, num_threads_, is_neg_, is_inference_, new_empty_strided_;
  py::object version_, requires_grad_;  // descriptors
  py::object level_name_;
  std::vector<py::object> observers_;
  py::dict forward_ad_;
  int (*read_)(void* object, dlpack::Tensor* out) = nullptr;
};

// A layer that runs directly. `tensors` are those that the layer was made from, in the order of the
// module's buffers; the call is declined once one of them was replaced or written to (the rule of
// sparsekd.ops.CachedLayer).
class DirectLayer {
 public:
  DirectLayer(py::object torch, const py::tuple& tensors);
  virtual ~DirectLayer() = default;

  // The output, or an empty object where the call is declined.
  py::object call(PyObject* x, PyObject* buffers) const;

 protected:
  virtual py::object run(PyObject* x, const dlpack::Tensor& input) const = 0;
  const Torch& torch() const { return *torch_; }

 private:
  bool is_current(PyObject* buffers) const;

  py::object torch_owner_;
  const Torch* torch_;
  std::vector<PyObject*> tensors_;  // borrowed: as_callable's tuple owns them
  std::vector<std::pair<PyObject*, std::int64_t>> versions_;
};

// A Python function f(x, buffers) that gives the output or None. It owns the layer and `tensors`.
py::object as_callable(std::unique_ptr<DirectLayer> layer, const py::tuple& tensors);

inline constexpr int kMostDims = 8;

// Whether these are fp32 numbers on the CPU, at least one of them.
bool is_fp32(const dlpack::Tensor& x);
bool is_row_major(const dlpack::Tensor& x);
// Row-major strides of a shape.
void row_major(const std::int64_t* shape, int dims, std::int64_t* strides);
// The first number of a tensor.
float* data_of(const dlpack::Tensor& x);

// Releases the GIL where the work takes longer than releasing it does.
class WithoutGil {
 public:
  explicit WithoutGil(std::int64_t multiply_adds);
  ~WithoutGil();
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_ = nullptr;
};

template <class Layer>
class DirectLinear final : public DirectLayer {
 public:
  DirectLinear(py::object layer, py::object torch, const py::tuple& tensors)
      : DirectLayer(std::move(torch), tensors),
        owner_(std::move(layer)),
        layer_(py::cast<const Layer*>(owner_)) {}

 private:
  py::object run(PyObject* x, const dlpack::Tensor& input) const override {
    const int dims = input.dims;
    if (dims < 1 || input.shape[dims - 1] != layer_->inputs() || !is_row_major(input)) return {};
    std::int64_t shape[kMostDims], strides[kMostDims], rows = 1;
    for (int d = 0; d < dims - 1; ++d) rows *= shape[d] = input.shape[d];
    shape[dims - 1] = layer_->outputs();
    row_major(shape, dims, strides);
    py::object y = torch().empty(x, shape, strides, dims);
    dlpack::Tensor output;
    if (!torch().read(y.ptr(), &output) || !is_fp32(output)) return {};
    const int threads = torch().num_threads();
    const WithoutGil released(rows * layer_->inputs() * layer_->outputs());
    layer_->forward(
        {data_of(input), rows, layer_->inputs(), data_of(output), layer_->outputs(), threads});
    return y;
  }

  py::object owner_;
  const Layer* layer_;
};

template <class Layer>
py::object direct_linear(py::object layer, py::object torch, const py::tuple& tensors) {
  return as_callable(
      std::make_unique<DirectLinear<Layer>>(std::move(layer), std::move(torch), tensors), tensors);
}

}  // namespace skd
