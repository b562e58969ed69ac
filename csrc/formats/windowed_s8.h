// The windowed s8 weight: sparse int8 for gathers inside a register.
//
//            inputs of one tap:  |<-- window 0: 64 -->|<-- window 1: 64 -->|<- the last, short ->|
//   slice 0  outputs  0..15      |  steps[0][0] steps |  steps[0][1] steps |  ...
//   slice 1  outputs 16..31      |  steps[1][0] steps |  ...
//
//   one step = 64 entries, 4 for each of the slice's 16 outputs:
//     values   [16][4] s8   | lane 0: v0 v1 v2 v3 | lane 1: v0 v1 v2 v3 | ... | lane 15 |   64 B
//     positions[16][4] u8   | lane 0: p0 p1 p2 p3 | ...                                     64 B
//   y[16 slice + lane] += v0 * x[64 window + p0] + ... + v3 * x[64 window + p3]
//
// Convolutions: `taps` = kh * kw and `groups`; the outputs of a group fill slices of their own (the
// last one of each group padded), `inputs` are the channels of one group.
//
// The windows of a slice follow each other, taps outermost: window index w = tap * windows_per_tap
// + window; step t of (slice, w) stands at row  step_ptr[slice] + sum(steps[slice][0..w)) + t  of
// `values` and `positions`.
//
// Canonical form, checked on construction: over the steps of one (slice, window) the entries of a
// lane have strictly increasing positions below the window's length and non-zero values in
// [-127, 127]; the rest of the lane is padding (value 0, position 0); the last step has at least
// one entry that is not padding; lanes past the last output hold padding alone. So a weight has one
// representation, and pack(unpack(p)) == p.
#pragma once

#include <cstdint>
#include <vector>

#include "core/buffer.h"
#include "formats/sliced_outputs.h"
#include "kernels/kernels.h"

namespace skd {

// The stored arrays, as they stand in a file or a tensor.
struct WindowedS8Parts {
  const std::int8_t* values = nullptr;      // [total_steps][16][4]
  const std::uint8_t* positions = nullptr;  // [total_steps][16][4]
  std::int64_t total_steps = 0;
  const std::uint8_t* steps = nullptr;  // [slices][windows]
  std::int64_t slices = 0;
  std::int64_t windows = 0;                // taps * ceil(inputs / 64)
  const std::int64_t* step_ptr = nullptr;  // [slices + 1]
};

class WindowedS8Weight {
 public:
  // Copies and validates stored arrays. Throws skd::Error naming the array that is wrong.
  static WindowedS8Weight from_parts(const WindowedS8Parts& parts, std::int64_t outputs,
                                     std::int64_t inputs, int taps = 1, std::int64_t groups = 1);
  // Packs a dense matrix [outputs][taps * inputs]; zeros are dropped. Throws on -128.
  static WindowedS8Weight pack(const std::int8_t* dense, std::int64_t outputs, std::int64_t inputs,
                               int taps = 1, std::int64_t groups = 1);
  // Writes the dense matrix [outputs][taps * inputs].
  void unpack(std::int8_t* dense) const;

  std::int64_t outputs() const { return layout_.outputs; }
  std::int64_t inputs() const { return inputs_; }
  int taps() const { return taps_; }
  const SlicedOutputs& layout() const { return layout_; }
  std::int64_t slices() const { return layout_.slices(); }
  std::int64_t windows() const { return windows_; }
  std::int64_t total_steps() const { return step_ptr_[slices()]; }
  std::int64_t packed_bytes() const;        // values + positions + steps + step_ptr
  std::int64_t bytes_per_slice() const;     // mean weight bytes that one slice streams
  std::int64_t largest_weight_sum() const;  // max over outputs of sum |w|
  WindowedS8Parts parts() const;            // views of the stored arrays
  const WindowedS8& view() const { return view_; }

 private:
  WindowedS8Weight() = default;
  void derive();  // quarters, sums, uniform step count: what is never stored

  SlicedOutputs layout_;
  std::int64_t inputs_ = 0, windows_ = 0, largest_sum_ = 0;
  int taps_ = 1;
  Buffer<std::int8_t> values_;
  Buffer<std::uint8_t> positions_, steps_, quarters_;
  Buffer<std::int64_t> step_ptr_;
  Buffer<std::int32_t> weight_sums_;
  WindowedS8 view_{};
};

}  // namespace skd
