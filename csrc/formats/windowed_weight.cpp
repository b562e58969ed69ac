#include "formats/windowed_weight.h"

#include <algorithm>

#include "core/check.h"
#include "core/sizes.h"
#include "formats/group_outputs.h"
#include "formats/windowed_bf16.h"
#include "formats/windowed_f32.h"
#include "formats/windowed_layout.h"
#include "formats/windowed_s8.h"

namespace skd {
namespace {

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

// Steps that an output needs for a window of its own.
template <class Format>
std::int64_t steps_needed(const typename Format::Value* dense, const WindowedLayout& layout,
                          std::int64_t output, std::int64_t w) {
  const auto* part = dense + layout.start(output, w);
  const auto kept = std::count_if(part, part + layout.length(w), Format::is_kept);
  return ceil_div(kept, Format::kDot);
}

// Steps of one (slice, window): what its longest lane needs.
template <class Format>
std::int64_t steps_of(const typename Format::Value* dense, const WindowedLayout& layout,
                      const OutputOrder& order, std::int64_t slice, std::int64_t w) {
  std::int64_t most = 0;
  for (std::int64_t lane = 0; lane < layout.outputs.lanes(slice); ++lane) {
    const std::int64_t output = order.output_in(layout.outputs.first_output(slice) + lane);
    most = std::max(most, steps_needed<Format>(dense, layout, output, w));
  }
  return most;
}

}  // namespace

template <class Format>
WindowedWeight<Format> WindowedWeight<Format>::from_parts(const Parts& parts,
                                                          const WindowedShape& shape) {
  const WindowedLayout layout = WindowedLayout::of<Format>(shape);
  check_counts(parts, layout);
  WindowedWeight weight;
  weight.shape_ = shape;
  weight.layout_ = layout.outputs;
  weight.order_ = OutputOrder(parts.order, layout.outputs);
  weight.windows_ = layout.windows;
  weight.step_ptr_ = Buffer<std::int64_t>::copy_of(parts.step_ptr, layout.slices + 1);
  weight.word_ptr_ = word_pointers(weight.step_ptr_, layout.slices, layout.packing.per_word);
  for (std::int64_t slice = 0; slice < layout.slices; ++slice) {
    check_slice(parts, layout, slice, weight.word_ptr_[slice]);
  }
  constexpr std::int64_t kEntries = kEntriesOf<Format>;
  weight.values_ = Buffer<Value>::copy_of(parts.values, checked_mul(parts.total_steps, kEntries));
  weight.positions_ =
      Buffer<Word>::copy_of(parts.positions, checked_mul(parts.total_words, kEntries));
  weight.steps_ = Buffer<std::uint8_t>::copy_of(parts.steps, layout.slices * layout.windows);
  weight.finish();
  return weight;
}

template <class Format>
WindowedWeight<Format> WindowedWeight<Format>::pack(const Value* dense, const WindowedShape& shape,
                                                    const std::int32_t* order) {
  const WindowedLayout layout = WindowedLayout::of<Format>(shape);
  constexpr std::int64_t kEntries = kEntriesOf<Format>;
  WindowedWeight weight;
  weight.shape_ = shape;
  weight.layout_ = layout.outputs;
  weight.order_ = OutputOrder(order, layout.outputs);
  weight.windows_ = layout.windows;
  weight.steps_ = Buffer<std::uint8_t>::zeros(checked_mul(layout.slices, layout.windows));
  weight.step_ptr_ = Buffer<std::int64_t>::zeros(layout.slices + 1);
  for (std::int64_t slice = 0; slice < layout.slices; ++slice) {
    std::int64_t sum = 0;
    for (std::int64_t w = 0; w < layout.windows; ++w) {
      const std::int64_t count = steps_of<Format>(dense, layout, weight.order_, slice, w);
      weight.steps_[slice * layout.windows + w] = static_cast<std::uint8_t>(count);
      sum += count;
    }
    weight.step_ptr_[slice + 1] = weight.step_ptr_[slice] + sum;
  }
  weight.word_ptr_ = word_pointers(weight.step_ptr_, layout.slices, layout.packing.per_word);
  weight.values_ = Buffer<Value>::zeros(checked_mul(weight.total_steps(), kEntries));
  weight.positions_ = Buffer<Word>::zeros(checked_mul(weight.total_words(), kEntries));

  for (std::int64_t slice = 0; slice < layout.slices; ++slice) {
    Value* values = weight.values_.data() + weight.step_ptr_[slice] * kEntries;
    Word* words = weight.positions_.data() + weight.word_ptr_[slice] * kEntries;
    std::int64_t first = 0;
    for (std::int64_t w = 0; w < layout.windows; ++w) {
      for (std::int64_t lane = 0; lane < layout.outputs.lanes(slice); ++lane) {
        const std::int64_t o = weight.order_.output_in(layout.outputs.first_output(slice) + lane);
        const Value* part = dense + layout.start(o, w);
        std::int64_t kept = 0;
        for (std::int64_t i = 0; i < layout.length(w); ++i) {
          require(Format::is_valid(part[i]), "weight: ", Format::number(part[i]), " in output ", o,
                  ", expected ", Format::kValid);
          if (!Format::is_kept(part[i])) continue;
          const std::int64_t t = first + kept / Format::kDot;
          const std::int64_t entry = lane * Format::kDot + kept % Format::kDot;
          Word& word = words[t / layout.packing.per_word * kEntries + entry];
          word = static_cast<Word>(word | static_cast<Word>(i) << shift_of(layout.packing, t));
          values[t * kEntries + entry] = part[i];
          ++kept;
        }
      }
      first += weight.steps_[slice * layout.windows + w];
    }
  }
  weight.finish();
  return weight;
}

template <class Format>
std::vector<std::int32_t> WindowedWeight<Format>::find_order(const Value* dense,
                                                             const WindowedShape& shape) {
  const WindowedLayout layout = WindowedLayout::of<Format>(shape);
  Buffer<std::uint8_t> needs(checked_mul(shape.outputs, layout.windows));
  for (std::int64_t o = 0; o < shape.outputs; ++o) {
    for (std::int64_t w = 0; w < layout.windows; ++w) {
      needs[o * layout.windows + w] =
          static_cast<std::uint8_t>(steps_needed<Format>(dense, layout, o, w));
    }
  }
  return group_outputs(needs.data(), layout.windows, layout.outputs);
}

template <class Format>
std::int64_t WindowedWeight<Format>::count_steps(const Value* dense, const WindowedShape& shape,
                                                 const std::int32_t* order) {
  const WindowedLayout layout = WindowedLayout::of<Format>(shape);
  const OutputOrder ordered(order, layout.outputs);
  std::int64_t total = 0;
  for (std::int64_t slice = 0; slice < layout.slices; ++slice) {
    for (std::int64_t w = 0; w < layout.windows; ++w) {
      total += steps_of<Format>(dense, layout, ordered, slice, w);
    }
  }
  return total;
}

template <class Format>
void WindowedWeight<Format>::unpack(Value* dense) const {
  const WindowedLayout layout = WindowedLayout::of<Format>(shape_);
  constexpr std::int64_t kEntries = kEntriesOf<Format>;
  std::fill_n(dense, outputs() * layout.columns, Value{});
  for (std::int64_t slice = 0; slice < slices(); ++slice) {
    const SliceEntries<Format> entries{values_.data() + step_ptr_[slice] * kEntries,
                                       positions_.data() + word_ptr_[slice] * kEntries,
                                       layout.packing};
    std::int64_t t = 0;
    for (std::int64_t w = 0; w < windows_; ++w) {
      for (const std::int64_t end = t + steps_[slice * windows_ + w]; t < end; ++t) {
        for (std::int64_t entry = 0; entry < kEntries; ++entry) {
          const Value value = entries.value(t, entry);
          if (!Format::is_kept(value)) continue;
          const std::int64_t o =
              order_.output_in(layout_.first_output(slice) + entry / Format::kDot);
          dense[layout.start(o, w) + entries.position(t, entry)] = value;
        }
      }
    }
  }
}

template <class Format>
void WindowedWeight<Format>::finish() {
  view_.values = values_.data();
  view_.positions = positions_.data();
  view_.steps = steps_.data();
  view_.step_ptr = step_ptr_.data();
  const std::uint8_t* first = steps_.data();
  const bool apart = Format::kShortWindowApart && shape_.taps == 1 && windows_ > 1 &&
                     shape_.inputs % shape_.window != 0;
  bool uniform = steps_.size() > 0;
  for (std::int64_t i = 0; i < steps_.size() && uniform; ++i) {
    uniform = first[i] == *first || (apart && i % windows_ == windows_ - 1);
  }
  view_.uniform_steps = uniform ? *first : 0;
  Format::derive(*this);
}

template <class Format>
std::int64_t WindowedWeight<Format>::packed_bytes() const {
  const auto bytes = [](const auto& array) {
    return array.size() * static_cast<std::int64_t>(sizeof array[0]);
  };
  return bytes(values_) + bytes(positions_) + bytes(steps_) + bytes(step_ptr_) + order_.bytes();
}

template <class Format>
std::int64_t WindowedWeight<Format>::bytes_per_slice() const {
  constexpr std::int64_t kVector = 64;  // bytes of a step's values and of a word for each entry
  return slices() == 0 ? 0 : ceil_div(kVector * (total_steps() + total_words()), slices());
}

template <class Format>
WindowedParts<Format> WindowedWeight<Format>::parts() const {
  return {values_.data(), positions_.data(), total_steps(),    total_words(),  steps_.data(),
          slices(),       windows_,          step_ptr_.data(), order_.stored()};
}

template class WindowedWeight<S8Format>;
template class WindowedWeight<F32Format>;
template class WindowedWeight<Bf16Format>;

}  // namespace skd
