// Python's view of the CSR fp32 Linear: pack and unpack, and handles that run.
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/linear.h"
#include "formats/csr_f32.h"
#include "ops/linear_csr.h"

namespace skd {
namespace {

using namespace pybind11::literals;

CsrF32Weight weight_from(const py::array& row_ptr, const py::array& columns,
                         const py::array& values, std::int64_t inputs) {
  CsrF32Parts parts;
  parts.row_ptr = data_of<std::int64_t>(row_ptr, "row_ptr", {-1});
  require(row_ptr.size() >= 1, "row_ptr: empty, expected one entry more than outputs");
  parts.columns = data_of<std::int32_t>(columns, "columns", {-1});
  parts.kept = columns.size();
  parts.values = data_of<float>(values, "values", {parts.kept});
  return CsrF32Weight::from_parts(parts, row_ptr.size() - 1, inputs);
}

template <class T>
py::array_t<T> array_of(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

py::tuple pack(const py::array& weight) {
  const float* dense = data_of<float>(weight, "weight", {-1, -1});
  const CsrF32Arrays packed = pack_csr_f32(dense, weight.shape(0), weight.shape(1));
  return py::make_tuple(array_of(packed.row_ptr), array_of(packed.columns),
                        array_of(packed.values));
}

py::array_t<float> unpack(const py::array& row_ptr, const py::array& columns,
                          const py::array& values, std::int64_t inputs) {
  const CsrF32Weight weight = weight_from(row_ptr, columns, values, inputs);
  py::array_t<float> dense({weight.outputs(), weight.inputs()});
  weight.unpack(dense.mutable_data());
  return dense;
}

LinearCsr from_parts(const py::array& row_ptr, const py::array& columns, const py::array& values,
                     std::int64_t inputs, const std::optional<py::array>& bias,
                     const std::string& activation) {
  CsrF32Weight weight = weight_from(row_ptr, columns, values, inputs);
  const float* biases = bias ? data_of<float>(*bias, "bias", {weight.outputs()}) : nullptr;
  return LinearCsr(std::move(weight), biases, activation_from(activation));
}

}  // namespace

void bind_linear_csr(py::module_& m) {
  m.def("pack_csr_f32", &pack, "weight"_a);
  m.def("unpack_csr_f32", &unpack, "row_ptr"_a, "columns"_a, "values"_a, "inputs"_a);

  py::class_<LinearCsr> bound(m, "LinearCsr");
  bound.def_static("from_parts", &from_parts, "row_ptr"_a, "columns"_a, "values"_a, "inputs"_a,
                   "bias"_a, "activation"_a);
  def_calls(bound);
}

}  // namespace skd
