#include "formats/windowed_float.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/check.h"
#include "core/sizes.h"
#include "formats/windowed_bf16.h"

namespace skd {
namespace {

template <class Format>
constexpr std::int64_t kEntries = kLanes * Format::kDot;  // of a step and of a word

float number(float value) { return value; }
float number(std::uint16_t bits) { return float_from_bf16(bits); }

bool is_finite(float value) { return std::isfinite(value); }
bool is_finite(std::uint16_t bits) { return std::isfinite(float_from_bf16(bits)); }

// Whether the format keeps such a weight; what it does not keep is zero.
bool is_kept(float value) { return value != 0.0f; }
bool is_kept(std::uint16_t bits) { return (bits & 0x7F80u) != 0; }

bool all_bits_zero(float value) {
  const float zero = 0.0f;
  return std::memcmp(&value, &zero, sizeof zero) == 0;
}
bool all_bits_zero(std::uint16_t bits) { return bits == 0; }

struct Layout {
  WindowedFloatShape shape;
  PositionPacking packing;
  SlicedOutputs outputs;
  std::int64_t slices, windows_per_tap, windows, columns;

  std::int64_t length(std::int64_t w) const {
    return std::min<std::int64_t>(shape.window, shape.inputs - w % windows_per_tap * shape.window);
  }
  // Where window w of an output starts in the dense matrix.
  std::int64_t start(std::int64_t output, std::int64_t w) const {
    return output * columns + w / windows_per_tap * shape.inputs +
           w % windows_per_tap * shape.window;
  }
};

template <class Format>
Layout layout_of(const WindowedFloatShape& shape) {
  require(shape.outputs >= 0 && shape.inputs >= 0 && shape.taps >= 1, "a windowed weight of ",
          shape.outputs, " outputs, ", shape.inputs, " inputs and ", shape.taps,
          " taps; expected sizes of at least 0 and one tap");
  constexpr bool kWide = Format::kDot == 2;
  require(shape.window == 32 || (!kWide && shape.window == 16), "window: ", shape.window,
          ", expected ", kWide ? "32" : "16 or 32", " for ", Format::kName);
  const PositionPacking packing =
      kWide ? kBf16Window32 : (shape.window == 16 ? kF32Window16 : kF32Window32);
  const std::int64_t columns = checked_mul(shape.inputs, shape.taps);
  checked_mul(shape.outputs, columns);
  const std::int64_t per_tap = ceil_div(shape.inputs, shape.window);
  const SlicedOutputs outputs = SlicedOutputs::of(shape.outputs, shape.groups);
  return {shape,  packing, outputs, outputs.slices(), per_tap, checked_mul(per_tap, shape.taps),
          columns};
}

// Steps of one (slice, window): what its longest lane needs.
template <class Format>
std::int64_t steps_of(const typename Format::Value* dense, const Layout& layout, std::int64_t slice,
                      std::int64_t w) {
  std::int64_t longest = 0;
  for (int lane = 0; lane < layout.outputs.lanes(slice); ++lane) {
    const auto* part = dense + layout.start(layout.outputs.first_output(slice) + lane, w);
    longest = std::max<std::int64_t>(
        longest,
        std::count_if(part, part + layout.length(w), [](auto value) { return is_kept(value); }));
  }
  return ceil_div(longest, Format::kDot);
}

// One entry of the stored arrays: step t of a slice.
template <class Format>
struct SliceEntries {
  const typename Format::Value* values;    // of the slice's first step
  const typename Format::Word* positions;  // of its first word
  const PositionPacking& packing;

  typename Format::Value value(std::int64_t t, std::int64_t entry) const {
    return values[t * kEntries<Format> + entry];
  }
  int position(std::int64_t t, std::int64_t entry) const {
    const auto word = positions[t / packing.per_word * kEntries<Format> + entry];
    const int shift = packing.bits * static_cast<int>(t % packing.per_word);
    return static_cast<int>(word >> shift) & (packing.window - 1);
  }
};

// Checks one lane over the steps first..first + count of a window and returns how many entries it
// keeps.
template <class Format>
std::int64_t check_lane(const SliceEntries<Format>& entries, std::int64_t first, std::int64_t count,
                        int lane, std::int64_t length) {
  constexpr std::int64_t kDot = Format::kDot;
  std::int64_t kept = 0;
  int previous = -1;
  bool padding = false;
  for (std::int64_t i = 0; i < count * kDot; ++i) {
    const std::int64_t t = first + i / kDot, entry = lane * kDot + i % kDot;
    const auto value = entries.value(t, entry);
    const int position = entries.position(t, entry);
    require(is_finite(value), "values: ", number(value), " in lane ", lane,
            ", expected finite numbers");
    if (!is_kept(value)) {
      require(all_bits_zero(value), "values: ", number(value), " in lane ", lane,
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

template <class Format>
void check_counts(const WindowedFloatParts<Format>& parts, const Layout& layout) {
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

// The bits of a word that belong to no step.
template <class Format>
void check_unused_bits(const typename Format::Word* positions, std::int64_t steps,
                       const PositionPacking& packing, std::int64_t slice) {
  for (std::int64_t first = 0; first < steps; first += packing.per_word) {
    const std::int64_t used = std::min<std::int64_t>(packing.per_word, steps - first);
    const std::uint64_t limit = std::uint64_t{1} << (packing.bits * static_cast<int>(used));
    const auto* word = positions + first / packing.per_word * kEntries<Format>;
    require(std::all_of(word, word + kEntries<Format>, [&](auto bits) { return bits < limit; }),
            "positions: a word of slice ", slice, " has bits set that belong to no step");
  }
}

// word_ptr from step_ptr.
Buffer<std::int64_t> word_pointers(const Buffer<std::int64_t>& step_ptr, std::int64_t slices,
                                   int per_word) {
  Buffer<std::int64_t> word_ptr = Buffer<std::int64_t>::zeros(slices + 1);
  for (std::int64_t slice = 0; slice < slices; ++slice) {
    word_ptr[slice + 1] =
        word_ptr[slice] + ceil_div(step_ptr[slice + 1] - step_ptr[slice], per_word);
  }
  return word_ptr;
}

}  // namespace

template <class Format>
WindowedFloatWeight<Format> WindowedFloatWeight<Format>::from_parts(
    const Parts& parts, const WindowedFloatShape& shape) {
  const Layout layout = layout_of<Format>(shape);
  check_counts(parts, layout);
  WindowedFloatWeight weight;
  weight.shape_ = shape;
  weight.layout_ = layout.outputs;
  weight.windows_ = layout.windows;
  weight.step_ptr_ = Buffer<std::int64_t>::copy_of(parts.step_ptr, layout.slices + 1);
  weight.word_ptr_ = word_pointers(weight.step_ptr_, layout.slices, layout.packing.per_word);

  for (std::int64_t slice = 0; slice < layout.slices; ++slice) {
    const SliceEntries<Format> entries{parts.values + parts.step_ptr[slice] * kEntries<Format>,
                                       parts.positions + weight.word_ptr_[slice] * kEntries<Format>,
                                       layout.packing};
    const std::int64_t lanes = layout.outputs.lanes(slice);
    check_unused_bits<Format>(entries.positions, parts.step_ptr[slice + 1] - parts.step_ptr[slice],
                              layout.packing, slice);
    std::int64_t t = 0;
    for (std::int64_t w = 0; w < layout.windows; ++w) {
      const std::int64_t count = parts.steps[slice * layout.windows + w];
      std::int64_t longest = 0;
      for (int lane = 0; lane < kLanes; ++lane) {
        const std::int64_t kept = check_lane(entries, t, count, lane, layout.length(w));
        require(kept == 0 || lane < lanes, "values: slice ", slice, " holds a weight in lane ",
                lane, ", but has ", lanes, " outputs");
        longest = std::max(longest, kept);
      }
      require(ceil_div(longest, Format::kDot) == count, "steps: slice ", slice, ", window ", w,
              " has ", count, " steps, but its longest output needs ",
              ceil_div(longest, Format::kDot));
      t += count;
    }
  }

  weight.values_ =
      Buffer<Value>::copy_of(parts.values, checked_mul(parts.total_steps, kEntries<Format>));
  weight.positions_ =
      Buffer<Word>::copy_of(parts.positions, checked_mul(parts.total_words, kEntries<Format>));
  weight.steps_ = Buffer<std::uint8_t>::copy_of(parts.steps, layout.slices * layout.windows);
  weight.derive();
  return weight;
}

template <class Format>
WindowedFloatWeight<Format> WindowedFloatWeight<Format>::pack(const Value* dense,
                                                              const WindowedFloatShape& shape) {
  const Layout layout = layout_of<Format>(shape);
  WindowedFloatWeight weight;
  weight.shape_ = shape;
  weight.layout_ = layout.outputs;
  weight.windows_ = layout.windows;
  weight.steps_ = Buffer<std::uint8_t>::zeros(checked_mul(layout.slices, layout.windows));
  weight.step_ptr_ = Buffer<std::int64_t>::zeros(layout.slices + 1);
  for (std::int64_t slice = 0; slice < layout.slices; ++slice) {
    std::int64_t sum = 0;
    for (std::int64_t w = 0; w < layout.windows; ++w) {
      const std::int64_t count = steps_of<Format>(dense, layout, slice, w);
      weight.steps_[slice * layout.windows + w] = static_cast<std::uint8_t>(count);
      sum += count;
    }
    weight.step_ptr_[slice + 1] = weight.step_ptr_[slice] + sum;
  }
  weight.word_ptr_ = word_pointers(weight.step_ptr_, layout.slices, layout.packing.per_word);
  weight.values_ = Buffer<Value>::zeros(checked_mul(weight.total_steps(), kEntries<Format>));
  weight.positions_ = Buffer<Word>::zeros(checked_mul(weight.total_words(), kEntries<Format>));

  for (std::int64_t slice = 0; slice < layout.slices; ++slice) {
    Value* values = weight.values_.data() + weight.step_ptr_[slice] * kEntries<Format>;
    Word* words = weight.positions_.data() + weight.word_ptr_[slice] * kEntries<Format>;
    std::int64_t first = 0;
    for (std::int64_t w = 0; w < layout.windows; ++w) {
      for (int lane = 0; lane < layout.outputs.lanes(slice); ++lane) {
        const std::int64_t o = layout.outputs.first_output(slice) + lane;
        const Value* part = dense + layout.start(o, w);
        std::int64_t kept = 0;
        for (std::int64_t i = 0; i < layout.length(w); ++i) {
          require(is_finite(part[i]), "weight: ", number(part[i]), " in output ", o,
                  ", expected finite numbers");
          if (!is_kept(part[i])) continue;
          const std::int64_t t = first + kept / Format::kDot;
          const std::int64_t entry = lane * Format::kDot + kept % Format::kDot;
          const int shift = layout.packing.bits * static_cast<int>(t % layout.packing.per_word);
          Word& word = words[t / layout.packing.per_word * kEntries<Format> + entry];
          word = static_cast<Word>(word | static_cast<Word>(i) << shift);
          values[t * kEntries<Format> + entry] = part[i];
          ++kept;
        }
      }
      first += weight.steps_[slice * layout.windows + w];
    }
  }
  weight.derive();
  return weight;
}

template <class Format>
std::int64_t WindowedFloatWeight<Format>::count_steps(const Value* dense,
                                                      const WindowedFloatShape& shape) {
  const Layout layout = layout_of<Format>(shape);
  std::int64_t total = 0;
  for (std::int64_t slice = 0; slice < layout.slices; ++slice) {
    for (std::int64_t w = 0; w < layout.windows; ++w) {
      total += steps_of<Format>(dense, layout, slice, w);
    }
  }
  return total;
}

template <class Format>
void WindowedFloatWeight<Format>::unpack(Value* dense) const {
  const Layout layout = layout_of<Format>(shape_);
  std::fill_n(dense, outputs() * layout.columns, Value{});
  for (std::int64_t slice = 0; slice < slices(); ++slice) {
    const SliceEntries<Format> entries{values_.data() + step_ptr_[slice] * kEntries<Format>,
                                       positions_.data() + word_ptr_[slice] * kEntries<Format>,
                                       layout.packing};
    std::int64_t t = 0;
    for (std::int64_t w = 0; w < windows_; ++w) {
      for (const std::int64_t end = t + steps_[slice * windows_ + w]; t < end; ++t) {
        for (std::int64_t entry = 0; entry < kEntries<Format>; ++entry) {
          const Value value = entries.value(t, entry);
          if (!is_kept(value)) continue;
          const std::int64_t o = layout_.first_output(slice) + entry / Format::kDot;
          dense[layout.start(o, w) + entries.position(t, entry)] = value;
        }
      }
    }
  }
}

template <class Format>
void WindowedFloatWeight<Format>::derive() {
  view_.values = values_.data();
  view_.positions = positions_.data();
  view_.steps = steps_.data();
  view_.step_ptr = step_ptr_.data();
  view_.word_ptr = word_ptr_.data();
  if constexpr (Format::kDot == 1) view_.window = shape_.window;
  const std::uint8_t* first = steps_.data();
  const std::int64_t counts = steps_.size();
  const bool uniform =
      counts > 0 && std::all_of(first, first + counts, [&](int n) { return n == *first; });
  view_.uniform_steps = uniform ? *first : 0;
}

template <class Format>
std::int64_t WindowedFloatWeight<Format>::packed_bytes() const {
  const auto bytes = [](const auto& array) {
    return array.size() * static_cast<std::int64_t>(sizeof array[0]);
  };
  return bytes(values_) + bytes(positions_) + bytes(steps_) + bytes(step_ptr_);
}

template <class Format>
std::int64_t WindowedFloatWeight<Format>::bytes_per_slice() const {
  constexpr std::int64_t kVector = 64;  // bytes of a step's values and of a word
  return slices() == 0 ? 0 : ceil_div(kVector * (total_steps() + total_words()), slices());
}

template <class Format>
WindowedFloatParts<Format> WindowedFloatWeight<Format>::parts() const {
  return {values_.data(), positions_.data(), total_steps(), total_words(),
          steps_.data(),  slices(),          windows_,      step_ptr_.data()};
}

template class WindowedFloatWeight<F32Format>;
template class WindowedFloatWeight<Bf16Format>;

}  // namespace skd
