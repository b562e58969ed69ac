// Python's view of the Linear on windowed fp32 and bf16 weights.
#include "ops/linear_float.h"

#include <pybind11/stl.h>

#include <optional>
#include <utility>

#include "bindings/linear.h"
#include "bindings/windowed.h"

namespace skd {
namespace {

using namespace pybind11::literals;

LinearFloat linear_from(LinearFloat::Weight weight, std::int64_t outputs,
                        const std::optional<py::array>& bias, const std::string& activation) {
  const float* biases = bias ? data_of<float>(*bias, "bias", {outputs}) : nullptr;
  return LinearFloat(std::move(weight), biases, activation_from(activation));
}

}  // namespace

void bind_linear_float(py::module_& m) {
  py::class_<LinearFloat> bound(m, "LinearFloat");
  bound
      .def_static(
          "windowed_f32",
          [](const py::array& values, const py::array& positions, const py::array& steps,
             const py::array& step_ptr, const std::optional<py::array>& order, int window,
             std::int64_t outputs, std::int64_t inputs, const std::optional<py::array>& bias,
             const std::string& activation) {
            return linear_from(windowed_from<F32Format>(values, positions, steps, step_ptr, order,
                                                        {outputs, inputs, window}),
                               outputs, bias, activation);
          },
          "values"_a, "positions"_a, "steps"_a, "step_ptr"_a, "order"_a, "window"_a, "outputs"_a,
          "inputs"_a, "bias"_a, "activation"_a)
      .def_static(
          "windowed_bf16",
          [](const py::array& values, const py::array& positions, const py::array& steps,
             const py::array& step_ptr, const std::optional<py::array>& order, std::int64_t outputs,
             std::int64_t inputs, const std::optional<py::array>& bias,
             const std::string& activation) {
            return linear_from(windowed_from<Bf16Format>(values, positions, steps, step_ptr, order,
                                                         {outputs, inputs, kBf16Window32.window}),
                               outputs, bias, activation);
          },
          "values"_a, "positions"_a, "steps"_a, "step_ptr"_a, "order"_a, "outputs"_a, "inputs"_a,
          "bias"_a, "activation"_a);
  def_calls(bound);
}

}  // namespace skd
