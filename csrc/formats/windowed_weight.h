// What the windowed weights of all dtypes have in common; windowed_s8.h and windowed_float.h draw
// each. A tap's inputs are cut into windows, outputs into slices of 16; a step holds `dot` kept
// weights of each of the 16 outputs with their positions in the window.
//
// The windows of a slice follow each other, taps outermost: window index w = tap * windows_per_tap
// + window; step t of (slice, w) is step sum(steps[slice][0..w)) + t of the slice and stands at row
// step_ptr[slice] + that of `values`. Positions are words of the format's own packing.
//
// Convolutions: `taps` = kh * kw and `groups`; the outputs of a group fill slices of their own (the
// last one of each group padded), `inputs` are the channels of one group. With an `order`
// (output_order.h) lane i of a slice holds output order[first + i], else output first + i.
//
// Canonical form, checked on construction: over the steps of one (slice, window) the entries of a
// lane have strictly increasing positions below the window's length and values that the format
// keeps; the rest of the lane is padding (value +0, position 0); the last step has at least one
// entry that is not padding; lanes past the last output hold padding alone; bits of a word that
// belong to no step are zero; an order moves something. So under its order a weight has one
// representation, and pack(unpack(p), order of p) == p.
#pragma once

#include <cstdint>
#include <vector>

#include "core/buffer.h"
#include "formats/output_order.h"
#include "formats/sliced_outputs.h"
#include "kernels/kernels.h"

namespace skd {

struct WindowedShape {
  std::int64_t outputs = 0;
  std::int64_t inputs = 0;  // of one tap; of one group
  int window = 0;           // s8: 64; bf16: 32; fp32: 16 or 32
  int taps = 1;
  std::int64_t groups = 1;
};

// The stored arrays, as they stand in a file or a tensor.
template <class Format>
struct WindowedParts {
  const typename Format::Value* values = nullptr;    // [total_steps][16][dot]
  const typename Format::Word* positions = nullptr;  // [total_words][16][dot]
  std::int64_t total_steps = 0, total_words = 0;
  const std::uint8_t* steps = nullptr;  // [slices][windows]
  std::int64_t slices = 0;
  std::int64_t windows = 0;                // taps * ceil(inputs / window)
  const std::int64_t* step_ptr = nullptr;  // [slices + 1]
  const std::int32_t* order = nullptr;     // [outputs] or null
};

// `Format` says
//   Value, Word, View                   a stored weight, a word of positions, what a kernel reads
//   kDot, kName                         kept weights of a lane in a step; for messages
//   packing(window)                     of positions; refuses a window that the format has not
//   is_valid, is_kept, is_padding       of a Value: may be stored or packed at all; is no zero; is
//                                       the stored zero
//   kValid, number                      what is valid in words; a Value for messages
//   kShortWindowApart                   whether kernels read the steps of a short last window even
//                                       where all others have the same count
//   Derived, derive(weight)             what kernels need besides, into the weight's view
template <class Format>
class WindowedWeight {
 public:
  using Value = typename Format::Value;
  using Word = typename Format::Word;
  using Parts = WindowedParts<Format>;

  // Copies and validates stored arrays. Throws skd::Error naming the array that is wrong.
  static WindowedWeight from_parts(const Parts& parts, const WindowedShape& shape);
  // Packs a dense matrix [outputs][taps * inputs] under an order [outputs] or null; what the format
  // does not keep is dropped. Throws on values that are not valid.
  static WindowedWeight pack(const Value* dense, const WindowedShape& shape,
                             const std::int32_t* order = nullptr);
  // The order that pads least as far as group_outputs.h finds it; empty where none pads less.
  static std::vector<std::int32_t> find_order(const Value* dense, const WindowedShape& shape);
  // How many steps pack() would need under an order [outputs] or null.
  static std::int64_t count_steps(const Value* dense, const WindowedShape& shape,
                                  const std::int32_t* order = nullptr);
  // Writes the dense matrix [outputs][taps * inputs].
  void unpack(Value* dense) const;

  std::int64_t outputs() const { return shape_.outputs; }
  std::int64_t inputs() const { return shape_.inputs; }
  int taps() const { return shape_.taps; }
  int window() const { return shape_.window; }
  const WindowedShape& shape() const { return shape_; }
  const SlicedOutputs& layout() const { return layout_; }
  const std::int32_t* places() const { return order_.places(); }  // for epilogues, or null
  std::int64_t slices() const { return layout_.slices(); }
  std::int64_t windows() const { return windows_; }
  std::int64_t total_steps() const { return step_ptr_[slices()]; }
  std::int64_t total_words() const { return word_ptr_[slices()]; }
  std::int64_t packed_bytes() const;     // of the stored arrays
  std::int64_t bytes_per_slice() const;  // mean weight bytes that one slice streams
  Parts parts() const;                   // views of the stored arrays
  const typename Format::View& view() const { return view_; }
  // Of s8: the maximum over outputs of sum |w|.
  template <class F = Format>
  std::int64_t largest_weight_sum() const {
    return static_cast<const typename F::Derived&>(derived_).largest_sum;
  }

 private:
  friend Format;  // derives
  WindowedWeight() = default;
  void finish();  // the word pointers are set: what is derived

  WindowedShape shape_;
  SlicedOutputs layout_;
  OutputOrder order_;
  std::int64_t windows_ = 0;
  Buffer<Value> values_;
  Buffer<Word> positions_;
  Buffer<std::uint8_t> steps_;
  Buffer<std::int64_t> step_ptr_, word_ptr_;
  typename Format::Derived derived_;
  typename Format::View view_{};
};

}  // namespace skd
