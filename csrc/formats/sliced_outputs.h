// How outputs fall into slices of 16 lanes: each group fills slices of its own, the last one
// padded.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/check.h"
#include "core/sizes.h"
#include "core/threads.h"
#include "kernels/kernels.h"

namespace skd {

struct SlicedOutputs {
  std::int64_t outputs = 0;
  std::int64_t groups = 1;

  static SlicedOutputs of(std::int64_t outputs, std::int64_t groups) {
    require(outputs >= 0 && groups >= 1 && outputs % groups == 0, outputs, " outputs in ", groups,
            " groups; expected a multiple of the groups");
    return {outputs, groups};
  }

  std::int64_t per_group() const { return outputs / groups; }
  std::int64_t slices_per_group() const { return ceil_div(per_group(), kLanes); }
  std::int64_t slices() const { return checked_mul(slices_per_group(), groups); }
  std::int64_t group_of(std::int64_t slice) const { return slice / slices_per_group(); }
  // The output in lane 0, and how many lanes hold one.
  std::int64_t first_output(std::int64_t slice) const {
    return group_of(slice) * per_group() + slice % slices_per_group() * kLanes;
  }
  std::int64_t lanes(std::int64_t slice) const {
    return std::min<std::int64_t>(kLanes, per_group() - slice % slices_per_group() * kLanes);
  }
  std::int64_t slice_of(std::int64_t output) const {
    return output / per_group() * slices_per_group() + output % per_group() / kLanes;
  }
  // The up to 64 outputs of a group among which a weight may have an order of its own.
  Range block_of(std::int64_t output) const {
    const std::int64_t in_group = output % per_group(), first = output - in_group;
    const std::int64_t begin = in_group / kOrderBlock * kOrderBlock;
    return {first + begin, first + std::min<std::int64_t>(begin + kOrderBlock, per_group())};
  }
  // Groups fall into blocks of up to 64 outputs, four slices; work is split between blocks.
  std::int64_t blocks() const { return groups * ceil_div(per_group(), kOrderBlock); }
  // The first slice of a block; of blocks(), slices().
  std::int64_t first_slice(std::int64_t block) const {
    const std::int64_t each = ceil_div(per_group(), kOrderBlock);
    if (each == 0) return 0;
    return block / each * slices_per_group() + block % each * (kOrderBlock / kLanes);
  }
  // The first slice of the block that a slice is in.
  std::int64_t block_start(std::int64_t slice) const {
    return slice - slice % slices_per_group() % (kOrderBlock / kLanes);
  }
  int lane_of(std::int64_t output) const { return static_cast<int>(output % per_group() % kLanes); }
};

}  // namespace skd
