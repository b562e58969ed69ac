#include "formats/dense_s8.h"

#include <algorithm>
#include <cstdlib>

#include "core/check.h"
#include "core/sizes.h"

namespace skd {
namespace {

constexpr std::int64_t kPanelRow = kLanes * kDot;

std::int64_t size_of(std::int64_t outputs, std::int64_t inputs, int taps) {
  require(outputs >= 0 && inputs >= 0 && taps >= 1, "a dense weight of ", outputs, " outputs, ",
          inputs, " inputs and ", taps, " taps; expected sizes of at least 0 and one tap");
  const std::int64_t quads = checked_mul(ceil_div(inputs, kDot), taps);
  return checked_mul(checked_mul(ceil_div(outputs, kLanes), quads), kPanelRow);
}

}  // namespace

DenseS8Weight DenseS8Weight::from_parts(const std::int8_t* panels, std::int64_t size,
                                        std::int64_t outputs, std::int64_t inputs, int taps) {
  require(size == size_of(outputs, inputs, taps), "panels: ", size, " bytes, expected ",
          size_of(outputs, inputs, taps), " for ", outputs, " outputs and ", inputs, " inputs");
  DenseS8Weight weight;
  weight.outputs_ = outputs;
  weight.inputs_ = inputs;
  weight.taps_ = taps;
  weight.slices_ = ceil_div(outputs, kLanes);
  weight.quads_ = ceil_div(inputs, kDot) * taps;
  const std::int64_t quads_per_tap = ceil_div(inputs, kDot);
  for (std::int64_t i = 0; i < size; ++i) {
    const std::int64_t quad = i / kPanelRow % weight.quads_;
    const std::int64_t output = i / (kPanelRow * weight.quads_) * kLanes + i % kPanelRow / kDot;
    const bool used = output < outputs && quad % quads_per_tap * kDot + i % kDot < inputs;
    require(panels[i] != -128, "panels: -128 in output ", output, ", expected -127..127");
    require(used || panels[i] == 0, "panels: a weight in the padding of output ", output,
            ", expected 0");
  }
  weight.panels_ = Buffer<std::int8_t>::copy_of(panels, size);
  weight.derive();
  return weight;
}

DenseS8Weight DenseS8Weight::pack(const std::int8_t* dense, std::int64_t outputs,
                                  std::int64_t inputs, int taps) {
  DenseS8Weight weight;
  weight.panels_ = Buffer<std::int8_t>::zeros(size_of(outputs, inputs, taps));
  weight.outputs_ = outputs;
  weight.inputs_ = inputs;
  weight.taps_ = taps;
  weight.slices_ = ceil_div(outputs, kLanes);
  weight.quads_ = ceil_div(inputs, kDot) * taps;
  for (std::int64_t o = 0; o < outputs; ++o) {
    for (int tap = 0; tap < taps; ++tap) {
      for (std::int64_t k = 0; k < inputs; ++k) {
        const std::int8_t value = dense[(o * taps + tap) * inputs + k];
        require(value != -128, "weight: -128 in output ", o, ", expected -127..127");
        const std::int64_t quad = tap * ceil_div(inputs, kDot) + k / kDot;
        weight.panels_[((o / kLanes * weight.quads_ + quad) * kLanes + o % kLanes) * kDot +
                       k % kDot] = value;
      }
    }
  }
  weight.derive();
  return weight;
}

void DenseS8Weight::unpack(std::int8_t* dense) const {
  for (std::int64_t o = 0; o < outputs_; ++o) {
    for (int tap = 0; tap < taps_; ++tap) {
      for (std::int64_t k = 0; k < inputs_; ++k) {
        const std::int64_t quad = tap * ceil_div(inputs_, kDot) + k / kDot;
        dense[(o * taps_ + tap) * inputs_ + k] =
            panels_[((o / kLanes * quads_ + quad) * kLanes + o % kLanes) * kDot + k % kDot];
      }
    }
  }
}

void DenseS8Weight::derive() {
  weight_sums_ = Buffer<std::int32_t>::zeros(checked_mul(slices_, kLanes));
  largest_sum_ = 0;
  for (std::int64_t o = 0; o < outputs_; ++o) {
    std::int64_t sum = 0, absolute = 0;
    for (std::int64_t quad = 0; quad < quads_; ++quad) {
      const std::int8_t* four =
          panels_.data() + ((o / kLanes * quads_ + quad) * kLanes + o % kLanes) * kDot;
      for (int i = 0; i < kDot; ++i) {
        sum += four[i];
        absolute += std::abs(four[i]);
      }
    }
    weight_sums_[o] = static_cast<std::int32_t>(sum);
    largest_sum_ = std::max(largest_sum_, absolute);
  }
  view_ = {panels_.data(), weight_sums_.data()};
}

}  // namespace skd
