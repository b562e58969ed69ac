// What the convolutions of all formats need to know of their weight, and the scratch of a call.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/buffer.h"
#include "core/check.h"
#include "core/threads.h"
#include "formats/depthwise.h"
#include "formats/sliced_outputs.h"
#include "ops/conv_call.h"
#include "ops/split.h"

namespace skd {

struct ConvWeight {
  SlicedOutputs outputs;
  std::int64_t inputs;       // of a tap that a slice reads
  std::int64_t slice_bytes;  // that a slice streams

  std::int64_t bytes() const { return slice_bytes * outputs.slices(); }
};

// Throws unless the weight fits the convolution.
template <class Weight>
ConvWeight conv_weight(const Weight& weight, const ConvGeometry& g) {
  require(weight.taps() == g.taps() && weight.inputs() == g.tap_inputs() &&
              weight.outputs() == g.out_channels && weight.layout().groups == g.groups,
          "weight: ", weight.outputs(), " outputs of ", weight.inputs(), " inputs and ",
          weight.taps(), " taps do not fit the convolution");
  return {weight.layout(), weight.inputs(), weight.bytes_per_slice()};
}
template <class Depthwise>
ConvWeight depthwise_weight(const Depthwise& weight, const ConvGeometry& g,
                            std::int64_t bytes_of_value) {
  require(!g.rows && weight.taps() == g.taps() && weight.channels() == g.in_channels &&
              g.in_channels == g.out_channels && g.groups == g.in_channels,
          "weight: a depthwise weight of ", weight.channels(), " channels and ", weight.taps(),
          " taps does not fit the convolution");
  return {{weight.channels(), 1}, weight.channels(), weight.taps() * kLanes * bytes_of_value};
}
inline ConvWeight conv_weight(const DepthwiseS8Weight& weight, const ConvGeometry& g) {
  return depthwise_weight(weight, g, 1);
}
inline ConvWeight conv_weight(const DepthwiseF32Weight& weight, const ConvGeometry& g) {
  return depthwise_weight(weight, g, 4);
}

inline int threads_for(const ConvWeight& weight, std::int64_t pixels, int requested) {
  const int threads = usable_threads(requested);
  // A pixel's work is as many bytes of weights; below so many a second thread costs more.
  constexpr std::int64_t kWorth = 128 << 10;
  return weight.bytes() >= kWorth / std::max<std::int64_t>(1, pixels) ? threads : 1;
}

// Scratch of one call, kept by the calling thread for the next one: the quantized or reordered
// input, a row of padding, row pointers, runs that cross an image's edge, and per-sample scales
// with the maxima they come from.
template <class Input>
struct ConvScratch {
  Buffer<Input> rows, zero_row, patches;
  Buffer<const Input*> pointers;
  Buffer<float> scales;
  Buffer<std::uint32_t> maxima;

  // What stands for padding: all channels of a pixel, or a whole run.
  Input* padding(const ConvGeometry& g, Input value) {
    const std::int64_t size = std::max(g.in_channels, g.tap_inputs());
    return std::fill_n(at_least(zero_row, size), size, value) - size;
  }
  template <class T>
  static T* at_least(Buffer<T>& buffer, std::int64_t size) {
    return buffer.reserve(size);
  }
};

}  // namespace skd
