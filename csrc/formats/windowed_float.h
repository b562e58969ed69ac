// The windowed fp32 and bf16 weights: as windowed_s8.h, with one (fp32) or two (bf16) kept weights
// a lane and step and with packed positions.
//
//            inputs of one tap:  |<-- window 0: W -->|<-- window 1: W -->|<- the last, short ->|
//   slice 0  outputs  0..15      |  steps[0][0] steps|  steps[0][1] steps|  ...
//   slice 1  outputs 16..31      |  steps[1][0] steps|  ...
//
//   one step, 64 bytes of values:
//     fp32  values[16]    f32    | lane 0: v | lane 1: v | ...                      | lane 15 |
//     bf16  values[16][2] u16    | lane 0: v0 v1 | lane 1: v0 v1 | ...              | lane 15 |
//   one word of positions a lane (fp32: u32 [16]; bf16: u16 [16][2]) serves several steps, the
//   first in the lowest bits:
//     fp32, W = 16    |t7  |t6  |t5  |t4  |t3  |t2  |t1  |t0  |      4 bits, 8 steps a word
//     fp32, W = 32    |00|t5   |t4   |t3   |t2   |t1   |t0   |       5 bits, 6 steps a word
//     bf16, W = 32    |0|t2   |t1   |t0   |                          5 bits, 3 steps a word
//   y[16 slice + lane] += v * x[W window + position]
//
// Words run on over the windows of a slice: step t of the slice stands at row step_ptr[slice] + t
// of `values`, and its positions at row word_ptr[slice] + t / per_word of `positions`, from bit
// bits * (t % per_word) on. Each slice starts a word of its own:
//   word_ptr[slice + 1] = word_ptr[slice] + ceil((step_ptr[slice + 1] - step_ptr[slice]) /
//   per_word)
// which is derived on loading and never stored. Windows, taps and groups are as in windowed_s8.h.
//
// Canonical form, checked on construction: over the steps of one (slice, window) the entries of a
// lane have strictly increasing positions below the window's length and finite values that are not
// zero (bf16: nor subnormal, which vdpbf16ps takes for zero); the rest of the lane is padding
// (value +0, position 0); the last step has at least one entry that is not padding; lanes past the
// last output hold padding alone; bits of a word that belong to no step are zero. So a weight has
// one representation, and pack(unpack(p)) == p.
#pragma once

#include <cstdint>

#include "core/buffer.h"
#include "formats/sliced_outputs.h"
#include "kernels/kernels.h"

namespace skd {

struct F32Format {
  using Value = float;
  using Word = std::uint32_t;
  using View = WindowedF32;
  static constexpr int kDot = 1;
  static constexpr const char* kName = "fp32";
};

struct Bf16Format {
  using Value = std::uint16_t;  // bits
  using Word = std::uint16_t;
  using View = WindowedBf16;
  static constexpr int kDot = 2;
  static constexpr const char* kName = "bf16";
};

struct WindowedFloatShape {
  std::int64_t outputs = 0;
  std::int64_t inputs = 0;  // of one tap; of one group
  int window = 32;          // fp32: 16 or 32; bf16: 32
  int taps = 1;
  std::int64_t groups = 1;
};

// The stored arrays, as they stand in a file or a tensor.
template <class Format>
struct WindowedFloatParts {
  const typename Format::Value* values = nullptr;    // [total_steps][16][dot]
  const typename Format::Word* positions = nullptr;  // [total_words][16][dot]
  std::int64_t total_steps = 0, total_words = 0;
  const std::uint8_t* steps = nullptr;  // [slices][windows]
  std::int64_t slices = 0;
  std::int64_t windows = 0;                // taps * ceil(inputs / window)
  const std::int64_t* step_ptr = nullptr;  // [slices + 1]
};

template <class Format>
class WindowedFloatWeight {
 public:
  using Value = typename Format::Value;
  using Word = typename Format::Word;
  using Parts = WindowedFloatParts<Format>;

  // Copies and validates stored arrays. Throws skd::Error naming the array that is wrong.
  static WindowedFloatWeight from_parts(const Parts& parts, const WindowedFloatShape& shape);
  // Packs a dense matrix [outputs][taps * inputs]; zeros of either sign (bf16: subnormals, too) are
  // dropped. Throws on NaN and Inf.
  static WindowedFloatWeight pack(const Value* dense, const WindowedFloatShape& shape);
  // How many steps pack() would need.
  static std::int64_t count_steps(const Value* dense, const WindowedFloatShape& shape);
  // Writes the dense matrix [outputs][taps * inputs].
  void unpack(Value* dense) const;

  std::int64_t outputs() const { return shape_.outputs; }
  std::int64_t inputs() const { return shape_.inputs; }
  int taps() const { return shape_.taps; }
  int window() const { return shape_.window; }
  const SlicedOutputs& layout() const { return layout_; }
  std::int64_t slices() const { return layout_.slices(); }
  std::int64_t windows() const { return windows_; }
  std::int64_t total_steps() const { return step_ptr_[slices()]; }
  std::int64_t total_words() const { return word_ptr_[slices()]; }
  std::int64_t packed_bytes() const;     // values + positions + steps + step_ptr
  std::int64_t bytes_per_slice() const;  // mean weight bytes that one slice streams
  Parts parts() const;                   // views of the stored arrays
  const typename Format::View& view() const { return view_; }

 private:
  WindowedFloatWeight() = default;
  void derive();  // word pointers are set; the uniform step count and the view

  WindowedFloatShape shape_;
  SlicedOutputs layout_;
  std::int64_t windows_ = 0;
  Buffer<Value> values_;
  Buffer<Word> positions_;
  Buffer<std::uint8_t> steps_;
  Buffer<std::int64_t> step_ptr_, word_ptr_;
  typename Format::View view_{};
};

extern template class WindowedFloatWeight<F32Format>;
extern template class WindowedFloatWeight<Bf16Format>;

}  // namespace skd
