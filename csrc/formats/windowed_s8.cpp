#include "formats/windowed_s8.h"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "core/sizes.h"

namespace skd {

void S8Format::derive(WindowedWeight<S8Format>& weight) {
  constexpr std::int64_t kStepEntries = kLanes * kDot;
  constexpr int kQuarter = 16;  // bytes of a quarter of a window
  Derived& derived = weight.derived_;
  derived.quarters = Buffer<std::uint8_t>::zeros(weight.total_steps());
  derived.weight_sums = Buffer<std::int32_t>::zeros(checked_mul(weight.slices(), kLanes));
  for (std::int64_t slice = 0; slice < weight.slices(); ++slice) {
    std::array<std::int64_t, kLanes> sums{}, absolute{};
    for (std::int64_t step = weight.step_ptr_[slice]; step < weight.step_ptr_[slice + 1]; ++step) {
      for (std::int64_t i = 0; i < kStepEntries; ++i) {
        const int value = weight.values_[step * kStepEntries + i];
        if (value == 0) continue;
        const int quarter = weight.positions_[step * kStepEntries + i] / kQuarter;
        derived.quarters[step] = static_cast<std::uint8_t>(derived.quarters[step] | 1 << quarter);
        sums[static_cast<std::size_t>(i / kDot)] += value;
        absolute[static_cast<std::size_t>(i / kDot)] += std::abs(value);
      }
    }
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      derived.weight_sums[kLanes * slice + static_cast<std::int64_t>(lane)] =
          static_cast<std::int32_t>(sums[lane]);
      derived.largest_sum = std::max(derived.largest_sum, absolute[lane]);
    }
  }
  weight.view_.quarters = derived.quarters.data();
  weight.view_.weight_sums = derived.weight_sums.data();
}

}  // namespace skd
