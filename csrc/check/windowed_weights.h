// The windowed formats as the checks handle them: one code for all.
#pragma once

#include <vector>

#include "check/conv_images.h"
#include "check/data.h"
#include "check/guard.h"
#include "check/problem.h"
#include "formats/windowed_bf16.h"
#include "formats/windowed_f32.h"
#include "formats/windowed_s8.h"

namespace skd::check {

template <class Format>
constexpr std::int64_t kEntriesOf = kLanes * Format::kDot;  // of a step and of a word

inline WindowedShape shape_of(const Problem& p) {
  const int window = is_float(p.op) ? p.window : kWindow;
  return {p.outputs, p.inputs, window, p.taps, groups_of(p)};
}

template <class Format>
WindowedWeight<Format> pack_windowed(const Problem& p, const typename Format::Value* dense) {
  const std::vector<std::int32_t> order = order_of(p);
  return WindowedWeight<Format>::pack(dense, shape_of(p), order.empty() ? nullptr : order.data());
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
WindowedWeight<Format> pack_floats(const Problem& p, const std::vector<float>& dense) {
  return pack_windowed<Format>(p, stored_values<Format>(dense).data());
}

// What find_order() finds is an order, and it saves steps.
template <class Format>
void expect_order_saves(const typename Format::Value* dense, const WindowedShape& shape) {
  const auto found = WindowedWeight<Format>::find_order(dense, shape);
  if (found.empty()) return;
  const auto steps = WindowedWeight<Format>::pack(dense, shape, found.data()).total_steps();
  const auto before = WindowedWeight<Format>::count_steps(dense, shape);
  expect(steps < before, "an order of ", steps, " steps was found for ", before, " without");
}

// The view that a kernel gets, every array on a guard page.
template <class Format>
typename Format::View guard_view(const WindowedWeight<Format>& weight, GuardedMemory& memory) {
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
