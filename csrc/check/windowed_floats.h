// The windowed fp32 and bf16 formats as the checks handle them: one code for both.
#pragma once

#include <vector>

#include "check/conv_images.h"
#include "check/guard.h"
#include "check/problem.h"
#include "formats/windowed_bf16.h"
#include "formats/windowed_f32.h"

namespace skd::check {

template <class Format>
constexpr std::int64_t kEntriesOf = kLanes * Format::kDot;  // of a step and of a word

inline WindowedFloatShape shape_of(const Problem& p) {
  return {p.outputs, p.inputs, p.window, p.taps,
          is_conv(p.op) ? p.images.geometry.groups : p.groups};
}

// fp32 values as the format stores them; of bf16, the caller has rounded them.
template <class Format>
std::vector<typename Format::Value> stored_values(const std::vector<float>& dense) {
  std::vector<typename Format::Value> values;
  for (const float w : dense) {
    if constexpr (Format::kDot == 2) {
      values.push_back(bf16_from_float(w));
    } else {
      values.push_back(w);
    }
  }
  return values;
}

template <class Format>
WindowedFloatWeight<Format> pack_floats(const Problem& p, const std::vector<float>& dense) {
  return WindowedFloatWeight<Format>::pack(stored_values<Format>(dense).data(), shape_of(p));
}

// The view that a kernel gets, every array on a guard page.
template <class Format>
typename Format::View guard_view(const WindowedFloatWeight<Format>& weight, GuardedMemory& memory) {
  typename Format::View view = weight.view();
  const std::int64_t slices = weight.slices();
  view.values = memory.copy("values", view.values, weight.total_steps() * kEntriesOf<Format>);
  view.positions =
      memory.copy("positions", view.positions, weight.total_words() * kEntriesOf<Format>);
  view.steps = memory.copy("steps", view.steps, slices * weight.windows());
  view.step_ptr = memory.copy("step_ptr", view.step_ptr, slices + 1);
  view.word_ptr = memory.copy("word_ptr", view.word_ptr, slices + 1);
  return view;
}

inline void accumulate(const KernelTable& table, const WindowedF32& weight, const TileF32& tile) {
  table.linear_windowed_f32(weight, tile);
}
inline void accumulate(const KernelTable& table, const WindowedBf16& weight, const TileBf16& tile) {
  table.linear_windowed_bf16(weight, tile);
}

}  // namespace skd::check
