// Python's view of the int8 Linear: pack and unpack, and handles that run.
#include <pybind11/stl.h>

#include <optional>
#include <utility>

#include "bindings/linear.h"
#include "bindings/windowed.h"
#include "core/sizes.h"
#include "formats/dense_s8.h"
#include "formats/windowed_s8.h"
#include "ops/linear.h"

namespace skd {
namespace {

using namespace pybind11::literals;
using S8 = py::array_t<std::int8_t>;

struct DenseMatrix {
  const std::int8_t* data;
  std::int64_t outputs, inputs;
};

DenseMatrix matrix_of(const py::array& weight) {
  const std::int8_t* data = data_of<std::int8_t>(weight, "weight", {-1, -1});
  return {data, weight.shape(0), weight.shape(1)};
}

DenseS8Weight dense_from(const py::array& panels, std::int64_t outputs, std::int64_t inputs) {
  require(outputs >= 0 && inputs >= 0, "a weight of ", outputs, " outputs and ", inputs,
          " inputs, expected at least 0");
  const std::int8_t* data = data_of<std::int8_t>(
      panels, "panels", {ceil_div(outputs, kLanes), ceil_div(inputs, kDot), kLanes, kDot});
  return DenseS8Weight::from_parts(data, panels.size(), outputs, inputs);
}

S8 pack_dense_s8(const py::array& weight) {
  const DenseMatrix dense = matrix_of(weight);
  const auto packed = DenseS8Weight::pack(dense.data, dense.outputs, dense.inputs);
  return S8({static_cast<py::ssize_t>(packed.slices()), static_cast<py::ssize_t>(packed.quads()),
             static_cast<py::ssize_t>(kLanes), static_cast<py::ssize_t>(kDot)},
            packed.panels());
}

S8 unpack_dense_s8(const py::array& panels, std::int64_t outputs, std::int64_t inputs) {
  const auto weight = dense_from(panels, outputs, inputs);
  S8 dense({outputs, inputs});
  weight.unpack(dense.mutable_data());
  return dense;
}

LinearS8 linear_from(LinearS8::Weight weight, std::int64_t outputs, const py::array& scale,
                     const std::optional<py::array>& bias, std::optional<float> input_scale,
                     std::int32_t input_zero_point, const std::string& activation) {
  const float* scales = data_of<float>(scale, "scale", {outputs});
  const float* biases = bias ? data_of<float>(*bias, "bias", {outputs}) : nullptr;
  const ActivationQuant quant{!input_scale, input_scale.value_or(1.0f), input_zero_point};
  return LinearS8(std::move(weight), scales, biases, quant, activation_from(activation));
}

}  // namespace

void bind_linear_s8(py::module_& m) {
  m.def("pack_dense_s8", &pack_dense_s8, "weight"_a);
  m.def("unpack_dense_s8", &unpack_dense_s8, "panels"_a, "outputs"_a, "inputs"_a);

  py::class_<LinearS8> bound(m, "LinearS8");
  bound
      .def_static(
          "windowed",
          [](const py::array& values, const py::array& positions, const py::array& steps,
             const py::array& step_ptr, const std::optional<py::array>& order, std::int64_t inputs,
             const py::array& scale, const std::optional<py::array>& bias,
             std::optional<float> input_scale, std::int32_t input_zero_point,
             const std::string& activation) {
            const std::int64_t outputs = scale.size();
            return linear_from(windowed_from<S8Format>(values, positions, steps, step_ptr, order,
                                                       {outputs, inputs, kWindow}),
                               outputs, scale, bias, input_scale, input_zero_point, activation);
          },
          "values"_a, "positions"_a, "steps"_a, "step_ptr"_a, "order"_a, "inputs"_a, "scale"_a,
          "bias"_a, "input_scale"_a, "input_zero_point"_a, "activation"_a)
      .def_static(
          "dense",
          [](const py::array& panels, std::int64_t inputs, const py::array& scale,
             const std::optional<py::array>& bias, std::optional<float> input_scale,
             std::int32_t input_zero_point, const std::string& activation) {
            const std::int64_t outputs = scale.size();
            return linear_from(dense_from(panels, outputs, inputs), outputs, scale, bias,
                               input_scale, input_zero_point, activation);
          },
          "panels"_a, "inputs"_a, "scale"_a, "bias"_a, "input_scale"_a, "input_zero_point"_a,
          "activation"_a);
  def_calls(bound);
}

}  // namespace skd
