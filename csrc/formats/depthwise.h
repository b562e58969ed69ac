// The depthwise weight: output channel c reads input channel c alone, so there is nothing to pack.
//
//   values [taps][channels]      s8 or fp32, channels contiguous
//
// fp32 kernels read it so: one vector load a tap. For s8 the weights of four taps are put side by
// side, as a dot product takes them, in the order in which unpacks interleave the bytes of four
// pixels: channel c = 64 block + 16 l + 4 q + i of tap t stands at
//
//   quads [blocks][ceil(taps / 4)][q: 4][4 l + i: 16][4]    at  [block][t / 4][q][4 l + i][t % 4]
//
// with zeros past the last tap and channel.
#pragma once

#include <cstdint>

#include "core/buffer.h"
#include "kernels/kernels.h"

namespace skd {

class DepthwiseS8Weight {
 public:
  // Arranges values [taps][channels] after refusing -128.
  DepthwiseS8Weight(const std::int8_t* values, std::int64_t channels, int taps);

  std::int64_t channels() const { return channels_; }
  int taps() const { return taps_; }
  const std::int32_t* places() const { return nullptr; }  // channels stand in their order
  std::int64_t slices() const { return ceil_div(channels_, kLanes); }
  // Where a channel's sum stands among the lanes of all blocks.
  static std::int64_t place_of(std::int64_t channel);
  std::int64_t largest_weight_sum() const { return largest_sum_; }
  const DepthwiseS8& view() const { return view_; }

 private:
  std::int64_t channels_, largest_sum_ = 0;
  int taps_;
  Buffer<std::int8_t> quads_;
  Buffer<std::int32_t> weight_sums_;
  DepthwiseS8 view_{};
};

class DepthwiseF32Weight {
 public:
  // Copies values [taps][channels] after refusing what is not finite.
  DepthwiseF32Weight(const float* values, std::int64_t channels, int taps);

  std::int64_t channels() const { return channels_; }
  int taps() const { return taps_; }
  const std::int32_t* places() const { return nullptr; }  // channels stand in their order
  std::int64_t slices() const { return ceil_div(channels_, kLanes); }
  const DepthwiseF32& view() const { return view_; }

 private:
  std::int64_t channels_;
  int taps_;
  Buffer<float> values_;
  DepthwiseF32 view_{};
};

}  // namespace skd
