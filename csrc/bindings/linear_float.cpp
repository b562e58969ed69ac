// Python's view of the windowed fp32 and bf16 weights and the Linear that runs on them. Dense
// matrices are [outputs, taps * inputs]; a Linear has one tap and one group.
#include "ops/linear_float.h"

#include <pybind11/stl.h>

#include <optional>
#include <utility>
#include <vector>

#include "bindings/direct.h"
#include "bindings/windowed_float.h"

namespace skd {
namespace {

using namespace pybind11::literals;

WindowedFloatShape shape_of(const py::array& weight, int window, int taps, std::int64_t groups) {
  require(weight.ndim() == 2, "weight: ", weight.ndim(), " dimensions, expected 2");
  require(taps >= 1 && weight.shape(1) % taps == 0, "weight: ", weight.shape(1), " columns for ",
          taps, " taps, expected a multiple");
  return {weight.shape(0), weight.shape(1) / taps, window, taps, groups};
}

template <class Format>
py::tuple arrays_of(const WindowedFloatWeight<Format>& weight) {
  const auto parts = weight.parts();
  std::vector<py::ssize_t> values{parts.total_steps, kLanes}, positions{parts.total_words, kLanes};
  if constexpr (Format::kDot > 1) {
    values.push_back(Format::kDot);
    positions.push_back(Format::kDot);
  }
  return py::make_tuple(py::array_t<typename Format::Value>(values, parts.values),
                        py::array_t<typename Format::Word>(positions, parts.positions),
                        py::array_t<std::uint8_t>({parts.slices, parts.windows}, parts.steps),
                        py::array_t<std::int64_t>({parts.slices + 1}, parts.step_ptr));
}

template <class Format>
py::array_t<typename Format::Value> dense_of(const WindowedFloatWeight<Format>& weight) {
  py::array_t<typename Format::Value> dense(
      {weight.outputs(), checked_mul(weight.inputs(), weight.taps())});
  weight.unpack(dense.mutable_data());
  return dense;
}

py::tuple pack_windowed_f32(const py::array& weight, int window, int taps, std::int64_t groups) {
  const float* dense = data_of<float>(weight, "weight", {-1, -1});
  return arrays_of(WindowedF32Weight::pack(dense, shape_of(weight, window, taps, groups)));
}

std::int64_t windowed_f32_steps(const py::array& weight, int window, int taps,
                                std::int64_t groups) {
  const float* dense = data_of<float>(weight, "weight", {-1, -1});
  return WindowedF32Weight::count_steps(dense, shape_of(weight, window, taps, groups));
}

int cheaper_f32_window_of(const py::array& weight, int taps, std::int64_t groups) {
  const float* dense = data_of<float>(weight, "weight", {-1, -1});
  return cheaper_f32_window(dense, shape_of(weight, 32, taps, groups));
}

// weight: fp32, which is rounded, or u16, the bits of bf16 numbers.
py::tuple pack_windowed_bf16(const py::array& weight, int taps, std::int64_t groups) {
  const WindowedFloatShape shape = shape_of(weight, kBf16Window32.window, taps, groups);
  if (!py::isinstance<py::array_t<float>>(weight)) {
    const auto* bits = data_of<std::uint16_t>(weight, "weight", {-1, -1});
    return arrays_of(WindowedBf16Weight::pack(bits, shape));
  }
  const float* dense = data_of<float>(weight, "weight", {-1, -1});
  Buffer<std::uint16_t> bits(weight.size());
  for (std::int64_t i = 0; i < bits.size(); ++i) bits[i] = bf16_from_float(dense[i]);
  return arrays_of(WindowedBf16Weight::pack(bits.data(), shape));
}

LinearFloat linear_from(LinearFloat::Weight weight, std::int64_t outputs,
                        const std::optional<py::array>& bias, const std::string& activation) {
  const float* biases = bias ? data_of<float>(*bias, "bias", {outputs}) : nullptr;
  return LinearFloat(std::move(weight), biases, activation_from(activation));
}

// x and y: addresses of contiguous fp32 matrices.
void forward(const LinearFloat& linear, std::uintptr_t x, std::int64_t rows, std::uintptr_t y,
             int threads) {
  const float* from = data_at<const float>(x, rows * linear.inputs(), "input");
  float* to = data_at<float>(y, rows * linear.outputs(), "output");
  const py::gil_scoped_release release;
  linear.forward({from, rows, linear.inputs(), to, linear.outputs(), threads});
}

}  // namespace

void bind_linear_float(py::module_& m) {
  m.def("pack_windowed_f32", &pack_windowed_f32, "weight"_a, "window"_a, "taps"_a = 1,
        "groups"_a = 1);
  m.def(
      "unpack_windowed_f32",
      [](const py::array& values, const py::array& positions, const py::array& steps,
         const py::array& step_ptr, int window, std::int64_t outputs, std::int64_t inputs, int taps,
         std::int64_t groups) {
        return dense_of(windowed_float_from<F32Format>(values, positions, steps, step_ptr,
                                                       {outputs, inputs, window, taps, groups}));
      },
      "values"_a, "positions"_a, "steps"_a, "step_ptr"_a, "window"_a, "outputs"_a, "inputs"_a,
      "taps"_a = 1, "groups"_a = 1);
  m.def("windowed_f32_steps", &windowed_f32_steps, "weight"_a, "window"_a, "taps"_a = 1,
        "groups"_a = 1);
  m.def("cheaper_f32_window", &cheaper_f32_window_of, "weight"_a, "taps"_a = 1, "groups"_a = 1);

  m.def("pack_windowed_bf16", &pack_windowed_bf16, "weight"_a, "taps"_a = 1, "groups"_a = 1);
  m.def(
      "unpack_windowed_bf16",
      [](const py::array& values, const py::array& positions, const py::array& steps,
         const py::array& step_ptr, std::int64_t outputs, std::int64_t inputs, int taps,
         std::int64_t groups) {
        return dense_of(
            windowed_float_from<Bf16Format>(values, positions, steps, step_ptr,
                                            {outputs, inputs, kBf16Window32.window, taps, groups}));
      },
      "values"_a, "positions"_a, "steps"_a, "step_ptr"_a, "outputs"_a, "inputs"_a, "taps"_a = 1,
      "groups"_a = 1);

  py::class_<LinearFloat>(m, "LinearFloat")
      .def_static(
          "windowed_f32",
          [](const py::array& values, const py::array& positions, const py::array& steps,
             const py::array& step_ptr, int window, std::int64_t outputs, std::int64_t inputs,
             const std::optional<py::array>& bias, const std::string& activation) {
            return linear_from(windowed_float_from<F32Format>(values, positions, steps, step_ptr,
                                                              {outputs, inputs, window}),
                               outputs, bias, activation);
          },
          "values"_a, "positions"_a, "steps"_a, "step_ptr"_a, "window"_a, "outputs"_a, "inputs"_a,
          "bias"_a, "activation"_a)
      .def_static(
          "windowed_bf16",
          [](const py::array& values, const py::array& positions, const py::array& steps,
             const py::array& step_ptr, std::int64_t outputs, std::int64_t inputs,
             const std::optional<py::array>& bias, const std::string& activation) {
            return linear_from(
                windowed_float_from<Bf16Format>(values, positions, steps, step_ptr,
                                                {outputs, inputs, kBf16Window32.window}),
                outputs, bias, activation);
          },
          "values"_a, "positions"_a, "steps"_a, "step_ptr"_a, "outputs"_a, "inputs"_a, "bias"_a,
          "activation"_a)
      .def_property_readonly("inputs", &LinearFloat::inputs)
      .def_property_readonly("outputs", &LinearFloat::outputs)
      .def("forward", &forward, "x"_a, "rows"_a, "y"_a, "threads"_a)
      .def("direct", &direct_linear<LinearFloat>, "torch"_a, "tensors"_a);
}

}  // namespace skd
