// Windowed weights of all dtypes from Python's arrays and back, for every layer kind.
#pragma once

#include <optional>
#include <type_traits>
#include <vector>

#include "bindings/arrays.h"
#include "core/sizes.h"
#include "formats/windowed_s8.h"

namespace skd {

// values [steps, 16, g] and positions [words, 16, g] of the format's dtypes, where fp32 leaves out
// g = 1; steps u8 [slices, windows]; step_ptr i64 [slices + 1]; order i32 [outputs] or None.
template <class Format>
WindowedWeight<Format> windowed_from(const py::array& values, const py::array& positions,
                                     const py::array& steps, const py::array& step_ptr,
                                     const std::optional<py::array>& order,
                                     const WindowedShape& shape) {
  require(shape.outputs >= 0 && shape.inputs >= 0 && shape.taps >= 1 && shape.window >= 1,
          "a weight of ", shape.outputs, " outputs, ", shape.inputs, " inputs, ", shape.taps,
          " taps and windows of ", shape.window, "; expected sizes of at least 0 and one tap");
  using Value = typename Format::Value;
  using Word = typename Format::Word;
  WindowedParts<Format> parts;
  if constexpr (Format::kDot == 1) {
    parts.values = data_of<Value>(values, "values", {-1, kLanes});
    parts.positions = data_of<Word>(positions, "positions", {-1, kLanes});
  } else {
    parts.values = data_of<Value>(values, "values", {-1, kLanes, Format::kDot});
    // In s8 a word is one position, so that there are as many as values.
    const py::ssize_t words = std::is_same_v<Format, S8Format> ? values.shape(0) : -1;
    parts.positions = data_of<Word>(positions, "positions", {words, kLanes, Format::kDot});
  }
  parts.total_steps = values.shape(0);
  parts.total_words = positions.shape(0);
  parts.slices = SlicedOutputs::of(shape.outputs, shape.groups).slices();
  parts.windows = checked_mul(ceil_div(shape.inputs, shape.window), shape.taps);
  parts.steps = data_of<std::uint8_t>(steps, "steps", {parts.slices, parts.windows});
  parts.step_ptr = data_of<std::int64_t>(step_ptr, "step_ptr", {parts.slices + 1});
  if (order) parts.order = data_of<std::int32_t>(*order, "order", {shape.outputs});
  return WindowedWeight<Format>::from_parts(parts, shape);
}

// Packed under `order`, [outputs] or None: the one that pads least, if any is worth it. Returns
// (values, positions, steps, step_ptr, order or None).
template <class Format>
py::tuple packed_arrays(const typename Format::Value* dense, const WindowedShape& shape,
                        const std::optional<py::array>& order) {
  std::vector<std::int32_t> found;
  const std::int32_t* chosen = nullptr;
  if (order) {
    chosen = data_of<std::int32_t>(*order, "order", {shape.outputs});
  } else {
    found = WindowedWeight<Format>::find_order(dense, shape);
    if (!found.empty()) chosen = found.data();
  }
  const auto weight = WindowedWeight<Format>::pack(dense, shape, chosen);
  const auto parts = weight.parts();
  std::vector<py::ssize_t> values{parts.total_steps, kLanes}, positions{parts.total_words, kLanes};
  if constexpr (Format::kDot > 1) {
    values.push_back(Format::kDot);
    positions.push_back(Format::kDot);
  }
  py::object stored = py::none();
  if (parts.order != nullptr) {
    stored = py::array_t<std::int32_t>({shape.outputs}, parts.order);
  }
  return py::make_tuple(py::array_t<typename Format::Value>(values, parts.values),
                        py::array_t<typename Format::Word>(positions, parts.positions),
                        py::array_t<std::uint8_t>({parts.slices, parts.windows}, parts.steps),
                        py::array_t<std::int64_t>({parts.slices + 1}, parts.step_ptr), stored);
}

// The dense matrix [outputs, taps * inputs].
template <class Format>
py::array_t<typename Format::Value> unpacked(const WindowedWeight<Format>& weight) {
  py::array_t<typename Format::Value> dense(
      {weight.outputs(), checked_mul(weight.inputs(), weight.taps())});
  weight.unpack(dense.mutable_data());
  return dense;
}

}  // namespace skd
