// Where things stand in a windowed weight, and the checks of its stored arrays; for
// windowed_weight.cpp alone.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/check.h"
#include "core/sizes.h"
#include "formats/windowed_weight.h"

namespace skd {

template <class Format>
constexpr std::int64_t kEntriesOf = kLanes * Format::kDot;  // of a step and of a word

struct WindowedLayout {
  WindowedShape shape;
  PositionPacking packing;
  SlicedOutputs outputs;
  std::int64_t slices, windows_per_tap, windows, columns;

  // Throws skd::Error on sizes that are negative or overflow and on windows that Format has not.
  template <class Format>
  static WindowedLayout of(const WindowedShape& shape) {
    require(shape.outputs >= 0 && shape.inputs >= 0 && shape.taps >= 1, "a windowed weight of ",
            shape.outputs, " outputs, ", shape.inputs, " inputs and ", shape.taps,
            " taps; expected sizes of at least 0 and one tap");
    const PositionPacking packing = Format::packing(shape.window);
    const std::int64_t columns = checked_mul(shape.inputs, shape.taps);
    checked_mul(shape.outputs, columns);
    const std::int64_t per_tap = ceil_div(shape.inputs, shape.window);
    const SlicedOutputs outputs = SlicedOutputs::of(shape.outputs, shape.groups);
    return {shape,  packing, outputs, outputs.slices(), per_tap, checked_mul(per_tap, shape.taps),
            columns};
  }

  std::int64_t length(std::int64_t w) const {
    return std::min<std::int64_t>(shape.window, shape.inputs - w % windows_per_tap * shape.window);
  }
  // Where window w of an output starts in the dense matrix.
  std::int64_t start(std::int64_t output, std::int64_t w) const {
    return output * columns + w / windows_per_tap * shape.inputs +
           w % windows_per_tap * shape.window;
  }
};

// Where the position of step t of a slice stands in its word.
inline int shift_of(const PositionPacking& packing, std::int64_t t) {
  return packing.bits * static_cast<int>(t % packing.per_word);
}

// The entries of the stored arrays from a slice's first step and word on.
template <class Format>
struct SliceEntries {
  const typename Format::Value* values;
  const typename Format::Word* positions;
  const PositionPacking& packing;

  typename Format::Value value(std::int64_t t, std::int64_t entry) const {
    return values[t * kEntriesOf<Format> + entry];
  }
  int position(std::int64_t t, std::int64_t entry) const {
    const auto word = positions[t / packing.per_word * kEntriesOf<Format> + entry];
    return static_cast<int>(word >> shift_of(packing, t)) & ((1 << packing.bits) - 1);
  }
};

// Checks one lane over the steps first..first + count of a window and returns how many entries it
// keeps.
template <class Format>
std::int64_t check_lane(const SliceEntries<Format>& entries, std::int64_t first, std::int64_t count,
                        int lane, std::int64_t length) {
  std::int64_t kept = 0;
  int previous = -1;
  bool padding = false;
  for (std::int64_t i = 0; i < count * Format::kDot; ++i) {
    const std::int64_t t = first + i / Format::kDot, entry = lane * Format::kDot + i % Format::kDot;
    const auto value = entries.value(t, entry);
    const int position = entries.position(t, entry);
    require(Format::is_valid(value), "values: ", Format::number(value), " in lane ", lane,
            ", expected ", Format::kValid);
    if (!Format::is_kept(value)) {
      require(Format::is_padding(value), "values: ", Format::number(value), " in lane ", lane,
              ", which the format stores as +0");
      require(position == 0, "positions: padding at position ", position, " in lane ", lane,
              ", expected 0");
      padding = true;
      continue;
    }
    require(!padding, "values: a weight after padding in lane ", lane);
    require(position > previous, "positions: ", position, " after ", previous, " in lane ", lane,
            ", expected a strictly increasing order");
    require(position < length, "positions: ", position, " in a window of ", length, " inputs");
    previous = position;
    ++kept;
  }
  return kept;
}

// The counts, their running sum and the lengths of the arrays.
template <class Format>
void check_counts(const WindowedParts<Format>& parts, const WindowedLayout& layout) {
  const std::int64_t most = layout.shape.window / Format::kDot;
  require(parts.slices == layout.slices && parts.windows == layout.windows, "steps: shape [",
          parts.slices, ", ", parts.windows, "], expected [", layout.slices, ", ", layout.windows,
          "] for ", layout.shape.outputs, " outputs and ", layout.shape.inputs, " inputs");
  require(parts.step_ptr[0] == 0, "step_ptr: starts at ", parts.step_ptr[0], ", expected 0");
  std::int64_t words = 0;
  for (std::int64_t slice = 0; slice < layout.slices; ++slice) {
    std::int64_t sum = 0;
    for (std::int64_t w = 0; w < layout.windows; ++w) {
      const int count = parts.steps[slice * layout.windows + w];
      require(count <= most, "steps: ", count, " in slice ", slice, ", window ", w,
              ", expected at most ", most);
      sum += count;
    }
    // Compared in this form, so that no value of the file can overflow the subtraction.
    require(parts.step_ptr[slice] <= parts.total_steps &&
                parts.step_ptr[slice + 1] == parts.step_ptr[slice] + sum,
            "step_ptr: entry ", slice + 1, " is ", parts.step_ptr[slice + 1],
            ", expected the running sum of steps");
    words += ceil_div(sum, layout.packing.per_word);
  }
  require(parts.step_ptr[layout.slices] == parts.total_steps, "step_ptr: ends at ",
          parts.step_ptr[layout.slices], ", but values holds ", parts.total_steps, " steps");
  require(words == parts.total_words, "positions: ", parts.total_words, " words, expected ", words,
          " for these steps");
}

// The entries of one slice, whose counts are right and whose first word is given.
template <class Format>
void check_slice(const WindowedParts<Format>& parts, const WindowedLayout& layout,
                 std::int64_t slice, std::int64_t first_word) {
  constexpr std::int64_t kEntries = kEntriesOf<Format>;
  const PositionPacking& packing = layout.packing;
  const SliceEntries<Format> entries{parts.values + parts.step_ptr[slice] * kEntries,
                                     parts.positions + first_word * kEntries, packing};
  const std::int64_t steps = parts.step_ptr[slice + 1] - parts.step_ptr[slice];
  for (std::int64_t first = 0; first < steps; first += packing.per_word) {
    const std::int64_t used = std::min<std::int64_t>(packing.per_word, steps - first);
    const std::uint64_t limit = std::uint64_t{1} << (packing.bits * static_cast<int>(used));
    const auto* word = entries.positions + first / packing.per_word * kEntries;
    require(std::all_of(word, word + kEntries, [&](auto bits) { return bits < limit; }),
            "positions: a word of slice ", slice, " has bits set that belong to no step");
  }
  const std::int64_t lanes = layout.outputs.lanes(slice);
  std::int64_t t = 0;
  for (std::int64_t w = 0; w < layout.windows; ++w) {
    const std::int64_t count = parts.steps[slice * layout.windows + w];
    std::int64_t longest = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
      const std::int64_t kept = check_lane(entries, t, count, lane, layout.length(w));
      require(kept == 0 || lane < lanes, "values: slice ", slice, " holds a weight in lane ", lane,
              ", but has ", lanes, " outputs");
      longest = std::max(longest, kept);
    }
    require(ceil_div(longest, Format::kDot) == count, "steps: slice ", slice, ", window ", w,
            " has ", count, " steps, but its longest output needs ",
            ceil_div(longest, Format::kDot));
    t += count;
  }
}

}  // namespace skd
