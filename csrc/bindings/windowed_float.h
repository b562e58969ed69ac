// Windowed fp32 and bf16 weights from Python's arrays, for every layer kind.
#pragma once

#include "bindings/arrays.h"
#include "core/sizes.h"
#include "formats/windowed_float.h"

namespace skd {

// values [steps, 16] fp32 or [steps, 16, 2] u16; positions [words, 16] u32 or [words, 16, 2] u16;
// steps u8 [slices, windows]; step_ptr i64 [slices + 1].
template <class Format>
WindowedFloatWeight<Format> windowed_float_from(const py::array& values, const py::array& positions,
                                                const py::array& steps, const py::array& step_ptr,
                                                const WindowedFloatShape& shape) {
  require(shape.inputs >= 0 && shape.taps >= 1 && shape.window >= 1, "a weight of ", shape.inputs,
          " inputs, ", shape.taps, " taps and windows of ", shape.window,
          "; expected at least 0 inputs, one tap and windows of 16 or 32");
  WindowedFloatParts<Format> parts;
  if constexpr (Format::kDot == 1) {
    parts.values = data_of<typename Format::Value>(values, "values", {-1, kLanes});
    parts.positions = data_of<typename Format::Word>(positions, "positions", {-1, kLanes});
  } else {
    parts.values = data_of<typename Format::Value>(values, "values", {-1, kLanes, Format::kDot});
    parts.positions =
        data_of<typename Format::Word>(positions, "positions", {-1, kLanes, Format::kDot});
  }
  parts.total_steps = values.shape(0);
  parts.total_words = positions.shape(0);
  parts.slices = SlicedOutputs::of(shape.outputs, shape.groups).slices();
  parts.windows = checked_mul(ceil_div(shape.inputs, shape.window), shape.taps);
  parts.steps = data_of<std::uint8_t>(steps, "steps", {parts.slices, parts.windows});
  parts.step_ptr = data_of<std::int64_t>(step_ptr, "step_ptr", {parts.slices + 1});
  return WindowedFloatWeight<Format>::from_parts(parts, shape);
}

}  // namespace skd
