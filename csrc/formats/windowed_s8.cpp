#include "formats/windowed_s8.h"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "core/check.h"
#include "core/sizes.h"

namespace skd {
namespace {

constexpr std::int64_t kStepEntries = kLanes * kDot;  // values (and positions) of one step
constexpr std::int64_t kMaxSteps = kWindow / kDot;    // of one slice and window
constexpr int kQuarter = 16;                          // bytes of a quarter of a window

struct Shape {
  SlicedOutputs layout;
  std::int64_t slices, windows_per_tap, windows;
};

Shape shape_of(std::int64_t outputs, std::int64_t inputs, int taps, std::int64_t groups) {
  require(outputs >= 0 && inputs >= 0 && taps >= 1, "a windowed weight of ", outputs, " outputs, ",
          inputs, " inputs and ", taps, " taps; expected sizes of at least 0 and one tap");
  checked_mul(checked_mul(outputs, inputs), taps);
  const std::int64_t per_tap = ceil_div(inputs, kWindow);
  const SlicedOutputs layout = SlicedOutputs::of(outputs, groups);
  return {layout, layout.slices(), per_tap, checked_mul(per_tap, taps)};
}

std::int64_t window_length(std::int64_t inputs, std::int64_t window) {
  return std::min<std::int64_t>(kWindow, inputs - kWindow * window);
}

// Checks one lane of one (slice, window) and returns how many entries it keeps.
std::int64_t check_lane(const std::int8_t* values, const std::uint8_t* positions,
                        std::int64_t steps, int lane, std::int64_t length) {
  std::int64_t kept = 0;
  int previous = -1;
  bool padding = false;
  for (std::int64_t i = 0; i < steps * kDot; ++i) {
    const std::int64_t at = i / kDot * kStepEntries + lane * kDot + i % kDot;
    const int value = values[at];
    const int position = positions[at];
    require(value != -128, "values: -128 in lane ", lane, ", expected -127..127");
    if (value == 0) {
      require(position == 0, "positions: padding at position ", position, " in lane ", lane,
              ", expected 0");
      padding = true;
      continue;
    }
    require(!padding, "values: a weight after padding in lane ", lane);
    require(position > previous, "positions: ", position, " after ", previous, " in lane ", lane,
            ", expected a strictly increasing order");
    require(position < length, "positions: ", position, " in a window of ", length, " inputs");
    previous = position;
    ++kept;
  }
  return kept;
}

}  // namespace

WindowedS8Weight WindowedS8Weight::from_parts(const WindowedS8Parts& parts, std::int64_t outputs,
                                              std::int64_t inputs, int taps, std::int64_t groups) {
  const Shape shape = shape_of(outputs, inputs, taps, groups);
  require(parts.slices == shape.slices && parts.windows == shape.windows, "steps: shape [",
          parts.slices, ", ", parts.windows, "], expected [", shape.slices, ", ", shape.windows,
          "] for ", outputs, " outputs and ", inputs, " inputs");
  require(parts.step_ptr[0] == 0, "step_ptr: starts at ", parts.step_ptr[0], ", expected 0");
  for (std::int64_t slice = 0; slice < shape.slices; ++slice) {
    std::int64_t sum = 0;
    for (std::int64_t w = 0; w < shape.windows; ++w) {
      const int count = parts.steps[slice * shape.windows + w];
      require(count <= kMaxSteps, "steps: ", count, " in slice ", slice, ", window ", w,
              ", expected at most ", kMaxSteps);
      sum += count;
    }
    // Compared in this form, so that no value of the file can overflow the subtraction.
    require(parts.step_ptr[slice] <= parts.total_steps &&
                parts.step_ptr[slice + 1] == parts.step_ptr[slice] + sum,
            "step_ptr: entry ", slice + 1, " is ", parts.step_ptr[slice + 1],
            ", expected the running sum of steps");
  }
  require(parts.step_ptr[shape.slices] == parts.total_steps, "step_ptr: ends at ",
          parts.step_ptr[shape.slices], ", but values and positions hold ", parts.total_steps,
          " steps");

  for (std::int64_t slice = 0; slice < shape.slices; ++slice) {
    std::int64_t step = parts.step_ptr[slice];
    const std::int64_t lanes = shape.layout.lanes(slice);
    for (std::int64_t w = 0; w < shape.windows; ++w) {
      const std::int64_t count = parts.steps[slice * shape.windows + w];
      std::int64_t longest = 0;
      for (int lane = 0; lane < kLanes; ++lane) {
        const std::int64_t kept =
            check_lane(parts.values + step * kStepEntries, parts.positions + step * kStepEntries,
                       count, lane, window_length(inputs, w % shape.windows_per_tap));
        require(kept == 0 || lane < lanes, "values: slice ", slice, " holds a weight in lane ",
                lane, ", but has ", lanes, " outputs");
        longest = std::max(longest, kept);
      }
      require(ceil_div(longest, kDot) == count, "steps: slice ", slice, ", window ", w, " has ",
              count, " steps, but its longest output needs ", ceil_div(longest, kDot));
      step += count;
    }
  }

  WindowedS8Weight weight;
  weight.layout_ = shape.layout;
  weight.inputs_ = inputs;
  weight.taps_ = taps;
  weight.windows_ = shape.windows;
  const std::int64_t entries = checked_mul(parts.total_steps, kStepEntries);
  weight.values_ = Buffer<std::int8_t>::copy_of(parts.values, entries);
  weight.positions_ = Buffer<std::uint8_t>::copy_of(parts.positions, entries);
  weight.steps_ = Buffer<std::uint8_t>::copy_of(parts.steps, shape.slices * shape.windows);
  weight.step_ptr_ = Buffer<std::int64_t>::copy_of(parts.step_ptr, shape.slices + 1);
  weight.derive();
  return weight;
}

WindowedS8Weight WindowedS8Weight::pack(const std::int8_t* dense, std::int64_t outputs,
                                        std::int64_t inputs, int taps, std::int64_t groups) {
  const Shape shape = shape_of(outputs, inputs, taps, groups);
  const std::int64_t columns = inputs * taps;
  const auto row_part = [&](std::int64_t output, std::int64_t w) {
    const std::int64_t tap = w / shape.windows_per_tap, window = w % shape.windows_per_tap;
    return dense + output * columns + tap * inputs + window * kWindow;
  };
  WindowedS8Weight weight;
  weight.layout_ = shape.layout;
  weight.inputs_ = inputs;
  weight.taps_ = taps;
  weight.windows_ = shape.windows;
  weight.steps_ = Buffer<std::uint8_t>::zeros(checked_mul(shape.slices, shape.windows));
  weight.step_ptr_ = Buffer<std::int64_t>::zeros(shape.slices + 1);

  for (std::int64_t slice = 0; slice < shape.slices; ++slice) {
    std::int64_t sum = 0;
    for (std::int64_t w = 0; w < shape.windows; ++w) {
      const std::int64_t length = window_length(inputs, w % shape.windows_per_tap);
      std::int64_t longest = 0;
      for (int lane = 0; lane < shape.layout.lanes(slice); ++lane) {
        const std::int64_t o = shape.layout.first_output(slice) + lane;
        const std::int8_t* part = row_part(o, w);
        longest = std::max<std::int64_t>(longest, length - std::count(part, part + length, 0));
      }
      const std::int64_t count = ceil_div(longest, kDot);
      weight.steps_[slice * shape.windows + w] = static_cast<std::uint8_t>(count);
      sum += count;
    }
    weight.step_ptr_[slice + 1] = weight.step_ptr_[slice] + sum;
  }

  const std::int64_t entries = checked_mul(weight.total_steps(), kStepEntries);
  weight.values_ = Buffer<std::int8_t>::zeros(entries);
  weight.positions_ = Buffer<std::uint8_t>::zeros(entries);
  for (std::int64_t slice = 0; slice < shape.slices; ++slice) {
    std::int64_t step = weight.step_ptr_[slice];
    for (std::int64_t w = 0; w < shape.windows; ++w) {
      const std::int64_t length = window_length(inputs, w % shape.windows_per_tap);
      for (int lane = 0; lane < shape.layout.lanes(slice); ++lane) {
        const std::int64_t o = shape.layout.first_output(slice) + lane;
        const std::int8_t* part = row_part(o, w);
        std::int64_t kept = 0;
        for (std::int64_t i = 0; i < length; ++i) {
          if (part[i] == 0) continue;
          require(part[i] != -128, "weight: -128 in output ", o, ", expected -127..127");
          const std::int64_t at = (step + kept / kDot) * kStepEntries + lane * kDot + kept % kDot;
          weight.values_[at] = part[i];
          weight.positions_[at] = static_cast<std::uint8_t>(i);
          ++kept;
        }
      }
      step += weight.steps_[slice * shape.windows + w];
    }
  }
  weight.derive();
  return weight;
}

void WindowedS8Weight::unpack(std::int8_t* dense) const {
  const std::int64_t columns = inputs_ * taps_;
  const std::int64_t per_tap = ceil_div(inputs_, kWindow);
  std::fill_n(dense, outputs() * columns, std::int8_t{0});
  for (std::int64_t slice = 0; slice < slices(); ++slice) {
    std::int64_t step = step_ptr_[slice];
    for (std::int64_t w = 0; w < windows_; ++w) {
      const std::int64_t column = w / per_tap * inputs_ + w % per_tap * kWindow;
      const std::int64_t end = step + steps_[slice * windows_ + w];
      for (; step < end; ++step) {
        for (std::int64_t i = 0; i < kStepEntries; ++i) {
          const std::int8_t value = values_[step * kStepEntries + i];
          if (value == 0) continue;
          dense[(layout_.first_output(slice) + i / kDot) * columns + column +
                positions_[step * kStepEntries + i]] = value;
        }
      }
    }
  }
}

void WindowedS8Weight::derive() {
  quarters_ = Buffer<std::uint8_t>::zeros(total_steps());
  weight_sums_ = Buffer<std::int32_t>::zeros(checked_mul(slices(), kLanes));
  largest_sum_ = 0;
  for (std::int64_t slice = 0; slice < slices(); ++slice) {
    std::array<std::int64_t, kLanes> sums{}, absolute{};
    for (std::int64_t step = step_ptr_[slice]; step < step_ptr_[slice + 1]; ++step) {
      for (std::int64_t i = 0; i < kStepEntries; ++i) {
        const int value = values_[step * kStepEntries + i];
        if (value == 0) continue;
        quarters_[step] = static_cast<std::uint8_t>(
            quarters_[step] | 1 << positions_[step * kStepEntries + i] / kQuarter);
        sums[static_cast<std::size_t>(i / kDot)] += value;
        absolute[static_cast<std::size_t>(i / kDot)] += std::abs(value);
      }
    }
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      weight_sums_[kLanes * slice + static_cast<std::int64_t>(lane)] =
          static_cast<std::int32_t>(sums[lane]);
      largest_sum_ = std::max(largest_sum_, absolute[lane]);
    }
  }
  const std::uint8_t* first = steps_.data();
  const std::int64_t counts = steps_.size();
  const bool uniform =
      counts > 0 && std::all_of(first, first + counts, [&](int n) { return n == *first; });
  view_ = {values_.data(),   positions_.data(),   quarters_.data(),    steps_.data(),
           step_ptr_.data(), weight_sums_.data(), uniform ? *first : 0};
}

std::int64_t WindowedS8Weight::packed_bytes() const {
  return values_.size() + positions_.size() + steps_.size() +
         step_ptr_.size() * static_cast<std::int64_t>(sizeof(std::int64_t));
}

std::int64_t WindowedS8Weight::bytes_per_slice() const {
  return slices() == 0 ? 0 : ceil_div(2 * kStepEntries * total_steps(), slices());
}

std::int64_t WindowedS8Weight::largest_weight_sum() const { return largest_sum_; }

WindowedS8Parts WindowedS8Weight::parts() const {
  return {values_.data(), positions_.data(), total_steps(),   steps_.data(),
          slices(),       windows_,          step_ptr_.data()};
}

}  // namespace skd
