#include "formats/csr_f32.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/check.h"
#include "core/sizes.h"

namespace skd {
namespace {

// A block of 128 inputs x 64 rows x 4 B fills two thirds of an L1 cache of 48 KB. Where so little
// is kept that a run would be too short to pay for loading its sums, blocks grow: by then x comes
// from L2 just as fast. 32768 is as far as u16 positions go.
constexpr std::int64_t kSmallestBlock = 128, kLargestBlock = 32768;
constexpr std::int64_t kKeptOfBlock = 8;  // entries an output should keep of a block, on average

void check_sizes(std::int64_t outputs, std::int64_t inputs) {
  require(outputs >= 0 && inputs >= 0, "a weight of ", outputs, " outputs and ", inputs,
          " inputs, expected at least 0");
  require(inputs <= std::numeric_limits<std::int32_t>::max(), "a weight of ", inputs,
          " inputs, expected fewer than 2^31");
  checked_mul(outputs, inputs);
}

void check(const CsrF32Parts& parts, std::int64_t outputs, std::int64_t inputs) {
  check_sizes(outputs, inputs);
  require(parts.row_ptr[0] == 0, "row_ptr: starts at ", parts.row_ptr[0], ", expected 0");
  for (std::int64_t o = 0; o < outputs; ++o) {
    require(parts.row_ptr[o] <= parts.row_ptr[o + 1], "row_ptr: falls from ", parts.row_ptr[o],
            " to ", parts.row_ptr[o + 1], " at output ", o, ", expected an ascending order");
  }
  require(parts.row_ptr[outputs] == parts.kept, "row_ptr: ends at ", parts.row_ptr[outputs],
          ", but columns and values hold ", parts.kept, " entries");
  for (std::int64_t o = 0; o < outputs; ++o) {
    std::int64_t previous = -1;
    for (std::int64_t i = parts.row_ptr[o]; i < parts.row_ptr[o + 1]; ++i) {
      const std::int64_t column = parts.columns[i];
      require(column >= 0 && column < inputs, "columns: ", column, " in output ", o,
              ", expected 0..", inputs - 1);
      require(column > previous, "columns: ", column, " after ", previous, " in output ", o,
              ", expected a strictly increasing order");
      require(std::isfinite(parts.values[i]), "values: ", parts.values[i], " in output ", o,
              ", expected a finite number");
      require(parts.values[i] != 0.0f, "values: a zero in output ", o,
              ", expected only weights that are kept (drop zeros first)");
      previous = column;
    }
  }
}

std::int64_t choose_block(std::int64_t outputs, std::int64_t inputs, std::int64_t kept) {
  const double density =
      kept == 0 ? 0.0 : static_cast<double>(kept) / static_cast<double>(outputs * inputs);
  std::int64_t block = kSmallestBlock;
  while (block < kLargestBlock && static_cast<double>(block) * density < kKeptOfBlock) block *= 2;
  return std::min(block, std::max<std::int64_t>(inputs, 1));
}

}  // namespace

CsrF32Arrays pack_csr_f32(const float* dense, std::int64_t outputs, std::int64_t inputs) {
  check_sizes(outputs, inputs);
  CsrF32Arrays packed;
  packed.row_ptr.reserve(static_cast<std::size_t>(outputs) + 1);
  packed.row_ptr.push_back(0);
  for (std::int64_t o = 0; o < outputs; ++o) {
    for (std::int64_t k = 0; k < inputs; ++k) {
      const float value = dense[o * inputs + k];
      if (value == 0.0f) continue;
      require(std::isfinite(value), "weight: ", value, " in output ", o,
              ", expected a finite number");
      packed.columns.push_back(static_cast<std::int32_t>(k));
      packed.values.push_back(value);
    }
    packed.row_ptr.push_back(static_cast<std::int64_t>(packed.values.size()));
  }
  return packed;
}

CsrF32Weight CsrF32Weight::from_parts(const CsrF32Parts& parts, std::int64_t outputs,
                                      std::int64_t inputs) {
  check(parts, outputs, inputs);
  CsrF32Weight weight;
  weight.outputs_ = outputs;
  weight.inputs_ = inputs;
  weight.kept_ = parts.kept;
  weight.block_inputs_ = choose_block(outputs, inputs, parts.kept);
  weight.values_.reserve(index(parts.kept));
  weight.positions_.reserve(index(parts.kept));
  weight.run_ptr_.push_back(0);
  weight.step_ptr_.push_back(0);
  std::int64_t step = 0;
  for (std::int64_t group = 0; group < ceil_div(outputs, kCsrGroup); ++group) {
    std::array<std::int64_t, kCsrGroup> next{};  // the first entry of each output not yet in a run
    const std::int64_t first = group * kCsrGroup;
    const std::int64_t count = std::min<std::int64_t>(kCsrGroup, outputs - first);
    std::copy_n(parts.row_ptr + first, count, next.begin());
    while (const std::int64_t steps = weight.add_run(parts, group, next.data())) step += steps;
    weight.run_ptr_.push_back(static_cast<std::int64_t>(weight.runs_.size()));
    weight.step_ptr_.push_back(step);
  }
  weight.values_.shrink_to_fit();
  weight.positions_.shrink_to_fit();
  weight.runs_.shrink_to_fit();
  return weight;
}

// Appends the run of the first block of which `next` leaves anything, and moves `next` past it.
// Returns its steps; 0 when nothing is left.
std::int64_t CsrF32Weight::add_run(const CsrF32Parts& parts, std::int64_t group,
                                   std::int64_t* next) {
  const std::int64_t first = group * kCsrGroup;
  const std::int64_t count = std::min<std::int64_t>(kCsrGroup, outputs_ - first);
  std::int64_t block = blocks();
  for (std::int64_t o = 0; o < count; ++o) {
    if (next[o] == parts.row_ptr[first + o + 1]) continue;
    block = std::min(block, parts.columns[next[o]] / block_inputs_);
  }
  if (block == blocks()) return 0;

  const std::int64_t base = block * block_inputs_;
  std::array<std::int64_t, kCsrGroup> kept{};
  for (std::int64_t o = 0; o < count; ++o) {
    const std::int32_t* end = parts.columns + parts.row_ptr[first + o + 1];
    const std::int32_t* begin = parts.columns + next[o];
    kept[index(o)] = std::lower_bound(begin, end, base + inputs_of(block)) - begin;
  }
  Run run{static_cast<std::int64_t>(values_.size()) / kCsrLanes,
          static_cast<std::int32_t>(block),
          {},
          {}};
  for (int o = 0; o < kCsrGroup; ++o) run.order[o] = static_cast<std::uint8_t>(o);
  std::stable_sort(run.order, run.order + kCsrGroup,
                   [&](std::uint8_t a, std::uint8_t b) { return kept[a] > kept[b]; });

  std::int64_t total = 0;
  for (int four = 0; four < kCsrGroup / kCsrLanes; ++four) {
    const std::uint8_t* order = run.order + four * kCsrLanes;
    const std::int64_t steps = kept[order[0]];
    run.steps[four] = static_cast<std::uint16_t>(steps);
    const std::size_t at = values_.size();
    values_.resize(at + index(steps * kCsrLanes), -0.0f);
    positions_.resize(at + index(steps * kCsrLanes), static_cast<std::uint16_t>(inputs_of(block)));
    for (int lane = 0; lane < kCsrLanes; ++lane) {
      std::int64_t& entry = next[order[lane]];
      for (std::int64_t step = 0; step < kept[order[lane]]; ++step, ++entry) {
        const std::size_t slot = at + index(step * kCsrLanes + lane);
        values_[slot] = parts.values[entry];
        positions_[slot] = static_cast<std::uint16_t>(parts.columns[entry] - base);
      }
    }
    total += steps;
  }
  runs_.push_back(run);
  return total;
}

void CsrF32Weight::unpack(float* dense) const {
  std::fill_n(dense, outputs_ * inputs_, 0.0f);
  for (std::int64_t group = 0; group < groups(); ++group) {
    for (std::int64_t r = run_begin(group); r < run_begin(group + 1); ++r) {
      const CsrF32Run part = run(r);
      const std::int64_t base = block_of(r) * block_inputs_;
      std::int64_t slot = 0;
      for (int four = 0; four < kCsrGroup / kCsrLanes; ++four) {
        for (std::int64_t i = 0; i < part.steps[four] * kCsrLanes; ++i, ++slot) {
          if (part.values[slot] == 0.0f) continue;
          const int output = part.order[four * kCsrLanes + i % kCsrLanes];
          dense[(group * kCsrGroup + output) * inputs_ + base + part.positions[slot]] =
              part.values[slot];
        }
      }
    }
  }
}

std::int64_t CsrF32Weight::packed_bytes() const {
  return (outputs_ + 1) * static_cast<std::int64_t>(sizeof(std::int64_t)) +
         kept_ * static_cast<std::int64_t>(sizeof(std::int32_t) + sizeof(float));
}

std::int64_t CsrF32Weight::blocks() const {
  return std::max<std::int64_t>(1, ceil_div(inputs_, block_inputs_));
}

std::int64_t CsrF32Weight::inputs_of(std::int64_t block) const {
  return std::min(block_inputs_, inputs_ - block * block_inputs_);
}

CsrF32Run CsrF32Weight::run(std::int64_t run) const {
  const Run& part = runs_[index(run)];
  return {values_.data() + part.first_step * kCsrLanes,
          positions_.data() + part.first_step * kCsrLanes, part.steps, part.order};
}

}  // namespace skd
