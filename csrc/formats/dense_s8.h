// The dense s8 weight: panels of 16 outputs x 4 inputs, one panel row a dot instruction.
//
//   panels [slices][taps * quads][16][4]      quads = ceil(inputs / 4)
//     output o, tap t, input k  ->  panels[o / 16][t * quads + k / 4][o % 16][k % 4]
//
// Convolutions: `taps` = kh * kw; the outputs of each of `groups` fill slices of their own,
// `inputs` are the channels of one group. Outputs past the last and inputs past the end of a tap
// are zero; -128 does not occur.
#pragma once

#include <cstdint>

#include "core/buffer.h"
#include "formats/sliced_outputs.h"
#include "kernels/kernels.h"

namespace skd {

class DenseS8Weight {
 public:
  // Copies and validates stored panels of `size` bytes. Throws skd::Error.
  static DenseS8Weight from_parts(const std::int8_t* panels, std::int64_t size,
                                  std::int64_t outputs, std::int64_t inputs, int taps = 1,
                                  std::int64_t groups = 1);
  // Packs a dense matrix [outputs][taps * inputs]. Throws on -128.
  static DenseS8Weight pack(const std::int8_t* dense, std::int64_t outputs, std::int64_t inputs,
                            int taps = 1, std::int64_t groups = 1);
  void unpack(std::int8_t* dense) const;

  std::int64_t outputs() const { return layout_.outputs; }
  std::int64_t inputs() const { return inputs_; }
  int taps() const { return taps_; }
  const SlicedOutputs& layout() const { return layout_; }
  const std::int32_t* places() const { return nullptr; }  // outputs stand in their order
  std::int64_t slices() const { return layout_.slices(); }
  std::int64_t quads() const { return quads_; }  // taps * ceil(inputs / 4)
  std::int64_t packed_bytes() const { return panels_.size(); }
  std::int64_t bytes_per_slice() const { return quads_ * kLanes * kDot; }
  std::int64_t largest_weight_sum() const { return largest_sum_; }
  const std::int8_t* panels() const { return panels_.data(); }
  const DenseS8& view() const { return view_; }

 private:
  DenseS8Weight() = default;
  void derive();

  SlicedOutputs layout_;
  std::int64_t inputs_ = 0, quads_ = 0, largest_sum_ = 0;
  int taps_ = 1;
  Buffer<std::int8_t> panels_;
  Buffer<std::int32_t> weight_sums_;
  DenseS8 view_{};
};

}  // namespace skd
