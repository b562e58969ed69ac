#include "formats/dense_s8.h"

#include <algorithm>
#include <cstdlib>

#include "core/check.h"
#include "core/sizes.h"

namespace skd {
namespace {

constexpr std::int64_t kPanelRow = kLanes * kDot;

struct Shape {
  SlicedOutputs layout;
  std::int64_t quads_per_tap, quads, bytes;
};

Shape shape_of(std::int64_t outputs, std::int64_t inputs, int taps, std::int64_t groups) {
  require(outputs >= 0 && inputs >= 0 && taps >= 1, "a dense weight of ", outputs, " outputs, ",
          inputs, " inputs and ", taps, " taps; expected sizes of at least 0 and one tap");
  const SlicedOutputs layout = SlicedOutputs::of(outputs, groups);
  const std::int64_t per_tap = ceil_div(inputs, kDot), quads = checked_mul(per_tap, taps);
  return {layout, per_tap, quads, checked_mul(checked_mul(layout.slices(), quads), kPanelRow)};
}

// Where the weight of (output, tap, input) stands.
std::int64_t panel_index(const Shape& shape, std::int64_t output, int tap, std::int64_t input) {
  const std::int64_t quad = tap * shape.quads_per_tap + input / kDot;
  return (shape.layout.slice_of(output) * shape.quads + quad) * kPanelRow +
         shape.layout.lane_of(output) * kDot + input % kDot;
}

}  // namespace

DenseS8Weight DenseS8Weight::from_parts(const std::int8_t* panels, std::int64_t size,
                                        std::int64_t outputs, std::int64_t inputs, int taps,
                                        std::int64_t groups) {
  const Shape shape = shape_of(outputs, inputs, taps, groups);
  require(size == shape.bytes, "panels: ", size, " bytes, expected ", shape.bytes, " for ", outputs,
          " outputs and ", inputs, " inputs");
  for (std::int64_t i = 0; i < size; ++i) {
    const std::int64_t slice = i / (kPanelRow * shape.quads);
    const std::int64_t input = i / kPanelRow % shape.quads % shape.quads_per_tap * kDot + i % kDot;
    const std::int64_t lane = i % kPanelRow / kDot;
    require(panels[i] != -128, "panels: -128 in slice ", slice, ", expected -127..127");
    require(panels[i] == 0 || (lane < shape.layout.lanes(slice) && input < inputs),
            "panels: a weight in the padding of slice ", slice, ", expected 0");
  }
  DenseS8Weight weight;
  weight.layout_ = shape.layout;
  weight.inputs_ = inputs;
  weight.taps_ = taps;
  weight.quads_ = shape.quads;
  weight.panels_ = Buffer<std::int8_t>::copy_of(panels, size);
  weight.derive();
  return weight;
}

DenseS8Weight DenseS8Weight::pack(const std::int8_t* dense, std::int64_t outputs,
                                  std::int64_t inputs, int taps, std::int64_t groups) {
  const Shape shape = shape_of(outputs, inputs, taps, groups);
  DenseS8Weight weight;
  weight.layout_ = shape.layout;
  weight.inputs_ = inputs;
  weight.taps_ = taps;
  weight.quads_ = shape.quads;
  weight.panels_ = Buffer<std::int8_t>::zeros(shape.bytes);
  for (std::int64_t o = 0; o < outputs; ++o) {
    for (int tap = 0; tap < taps; ++tap) {
      for (std::int64_t k = 0; k < inputs; ++k) {
        const std::int8_t value = dense[(o * taps + tap) * inputs + k];
        require(value != -128, "weight: -128 in output ", o, ", expected -127..127");
        weight.panels_[panel_index(shape, o, tap, k)] = value;
      }
    }
  }
  weight.derive();
  return weight;
}

void DenseS8Weight::unpack(std::int8_t* dense) const {
  const Shape shape = shape_of(outputs(), inputs_, taps_, layout_.groups);
  for (std::int64_t o = 0; o < outputs(); ++o) {
    for (int tap = 0; tap < taps_; ++tap) {
      for (std::int64_t k = 0; k < inputs_; ++k) {
        dense[(o * taps_ + tap) * inputs_ + k] = panels_[panel_index(shape, o, tap, k)];
      }
    }
  }
}

void DenseS8Weight::derive() {
  weight_sums_ = Buffer<std::int32_t>::zeros(checked_mul(slices(), kLanes));
  largest_sum_ = 0;
  for (std::int64_t i = 0; i < slices() * kLanes; ++i) {
    std::int64_t sum = 0, absolute = 0;
    for (std::int64_t quad = 0; quad < quads_; ++quad) {
      const std::int8_t* four =
          panels_.data() + (i / kLanes * quads_ + quad) * kPanelRow + i % kLanes * kDot;
      for (int k = 0; k < kDot; ++k) {
        sum += four[k];
        absolute += std::abs(four[k]);
      }
    }
    weight_sums_[i] = static_cast<std::int32_t>(sum);
    largest_sum_ = std::max(largest_sum_, absolute);
  }
  view_ = {panels_.data(), weight_sums_.data()};
}

}  // namespace skd
