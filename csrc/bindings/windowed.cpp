// Windowed weights packed and unpacked. Dense matrices are [outputs, taps * inputs]; `order` None
// stands for the one that pads least.
#include "bindings/windowed.h"

#include <pybind11/stl.h>

#include <optional>
#include <tuple>

#include "formats/windowed_bf16.h"
#include "formats/windowed_f32.h"
#include "formats/windowed_s8.h"

namespace skd {
namespace {

using namespace pybind11::literals;
using Order = std::optional<py::array>;

WindowedShape shape_of(const py::array& weight, int window, int taps, std::int64_t groups) {
  require(weight.ndim() == 2, "weight: ", weight.ndim(), " dimensions, expected 2");
  require(taps >= 1 && weight.shape(1) % taps == 0, "weight: ", weight.shape(1), " columns for ",
          taps, " taps, expected a multiple");
  return {weight.shape(0), weight.shape(1) / taps, window, taps, groups};
}

py::tuple pack_windowed_s8(const py::array& weight, int taps, std::int64_t groups,
                           const Order& order) {
  const auto* dense = data_of<std::int8_t>(weight, "weight", {-1, -1});
  return packed_arrays<S8Format>(dense, shape_of(weight, kWindow, taps, groups), order);
}

py::tuple pack_windowed_f32(const py::array& weight, int window, int taps, std::int64_t groups,
                            const Order& order) {
  const auto* dense = data_of<float>(weight, "weight", {-1, -1});
  return packed_arrays<F32Format>(dense, shape_of(weight, window, taps, groups), order);
}

// weight: fp32, which is rounded, or u16, the bits of bf16 numbers.
py::tuple pack_windowed_bf16(const py::array& weight, int taps, std::int64_t groups,
                             const Order& order) {
  const WindowedShape shape = shape_of(weight, kBf16Window32.window, taps, groups);
  if (!py::isinstance<py::array_t<float>>(weight)) {
    const auto* bits = data_of<std::uint16_t>(weight, "weight", {-1, -1});
    return packed_arrays<Bf16Format>(bits, shape, order);
  }
  const float* dense = data_of<float>(weight, "weight", {-1, -1});
  Buffer<std::uint16_t> bits(weight.size());
  for (std::int64_t i = 0; i < bits.size(); ++i) bits[i] = bf16_from_float(dense[i]);
  return packed_arrays<Bf16Format>(bits.data(), shape, order);
}

template <class Format>
py::array_t<typename Format::Value> unpack(const py::array& values, const py::array& positions,
                                           const py::array& steps, const py::array& step_ptr,
                                           const Order& order, const WindowedShape& shape) {
  return unpacked(windowed_from<Format>(values, positions, steps, step_ptr, order, shape));
}

std::int64_t windowed_f32_steps(const py::array& weight, int window, int taps,
                                std::int64_t groups) {
  const float* dense = data_of<float>(weight, "weight", {-1, -1});
  return WindowedF32Weight::count_steps(dense, shape_of(weight, window, taps, groups));
}

// taps: of a weight in windows of 16, and of 32.
int cheaper_f32_window_of(const py::array& weight, std::tuple<int, int> taps, std::int64_t groups) {
  const float* dense = data_of<float>(weight, "weight", {-1, -1});
  return cheaper_f32_window(dense, shape_of(weight, 16, std::get<0>(taps), groups),
                            shape_of(weight, 32, std::get<1>(taps), groups));
}

}  // namespace

void bind_windowed(py::module_& m) {
  m.def("pack_windowed_s8", &pack_windowed_s8, "weight"_a, "taps"_a = 1, "groups"_a = 1,
        "order"_a = py::none());
  m.def("pack_windowed_f32", &pack_windowed_f32, "weight"_a, "window"_a, "taps"_a = 1,
        "groups"_a = 1, "order"_a = py::none());
  m.def("pack_windowed_bf16", &pack_windowed_bf16, "weight"_a, "taps"_a = 1, "groups"_a = 1,
        "order"_a = py::none());
  m.def(
      "unpack_windowed_s8",
      [](const py::array& values, const py::array& positions, const py::array& steps,
         const py::array& step_ptr, const Order& order, std::int64_t outputs, std::int64_t inputs,
         int taps, std::int64_t groups) {
        return unpack<S8Format>(values, positions, steps, step_ptr, order,
                                {outputs, inputs, kWindow, taps, groups});
      },
      "values"_a, "positions"_a, "steps"_a, "step_ptr"_a, "order"_a, "outputs"_a, "inputs"_a,
      "taps"_a = 1, "groups"_a = 1);
  m.def(
      "unpack_windowed_f32",
      [](const py::array& values, const py::array& positions, const py::array& steps,
         const py::array& step_ptr, const Order& order, int window, std::int64_t outputs,
         std::int64_t inputs, int taps, std::int64_t groups) {
        return unpack<F32Format>(values, positions, steps, step_ptr, order,
                                 {outputs, inputs, window, taps, groups});
      },
      "values"_a, "positions"_a, "steps"_a, "step_ptr"_a, "order"_a, "window"_a, "outputs"_a,
      "inputs"_a, "taps"_a = 1, "groups"_a = 1);
  m.def(
      "unpack_windowed_bf16",
      [](const py::array& values, const py::array& positions, const py::array& steps,
         const py::array& step_ptr, const Order& order, std::int64_t outputs, std::int64_t inputs,
         int taps, std::int64_t groups) {
        return unpack<Bf16Format>(values, positions, steps, step_ptr, order,
                                  {outputs, inputs, kBf16Window32.window, taps, groups});
      },
      "values"_a, "positions"_a, "steps"_a, "step_ptr"_a, "order"_a, "outputs"_a, "inputs"_a,
      "taps"_a = 1, "groups"_a = 1);
  m.def("windowed_f32_steps", &windowed_f32_steps, "weight"_a, "window"_a, "taps"_a = 1,
        "groups"_a = 1);
  m.def("cheaper_f32_window", &cheaper_f32_window_of, "weight"_a, "taps"_a = std::make_tuple(1, 1),
        "groups"_a = 1);
}

}  // namespace skd
