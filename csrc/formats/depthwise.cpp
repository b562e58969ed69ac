#include "formats/depthwise.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "core/check.h"
#include "core/sizes.h"

namespace skd {
namespace {

std::int64_t checked_size(std::int64_t channels, int taps) {
  require(channels >= 0 && taps >= 1, "a depthwise weight of ", channels, " channels and ", taps,
          " taps; expected at least 0 channels and one tap");
  return checked_mul(channels, taps);
}

}  // namespace

std::int64_t DepthwiseS8Weight::place_of(std::int64_t channel) {
  const std::int64_t l = channel % kDepthwiseChannels / 16, q = channel % 16 / 4;
  return channel / kDepthwiseChannels * kDepthwiseChannels + q * kLanes + 4 * l + channel % 4;
}

DepthwiseS8Weight::DepthwiseS8Weight(const std::int8_t* values, std::int64_t channels, int taps)
    : channels_(channels), taps_(taps) {
  checked_size(channels, taps);
  const std::int64_t places = round_up(channels, kDepthwiseChannels), quads = ceil_div(taps, kDot);
  quads_ = Buffer<std::int8_t>::zeros(checked_mul(places, quads * kDot));
  weight_sums_ = Buffer<std::int32_t>::zeros(places);
  for (std::int64_t c = 0; c < channels; ++c) {
    const std::int64_t place = place_of(c), block = place / kDepthwiseChannels;
    std::int32_t sum = 0, absolute = 0;
    for (int tap = 0; tap < taps; ++tap) {
      const std::int8_t value = values[tap * channels + c];
      require(value != -128, "values: -128 in channel ", c, ", expected -127..127");
      quads_[((block * quads + tap / kDot) * kDepthwiseChannels + place % kDepthwiseChannels) *
                 kDot +
             tap % kDot] = value;
      sum += value;
      absolute += std::abs(static_cast<int>(value));
    }
    weight_sums_[place] = sum;
    largest_sum_ = std::max<std::int64_t>(largest_sum_, absolute);
  }
  view_ = {quads_.data(), weight_sums_.data()};
}

DepthwiseF32Weight::DepthwiseF32Weight(const float* values, std::int64_t channels, int taps)
    : channels_(channels),
      taps_(taps),
      values_(Buffer<float>::copy_of(values, checked_size(channels, taps))) {
  for (std::int64_t i = 0; i < values_.size(); ++i) {
    require(std::isfinite(values[i]), "values: ", values[i], " in channel ", i % channels,
            ", expected a finite number");
  }
  view_ = {values_.data()};
}

}  // namespace skd
