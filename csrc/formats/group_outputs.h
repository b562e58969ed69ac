// Which outputs share a slice. A slice needs, for each window, the steps of its most demanding
// output; the others pad. So outputs that are alike belong together.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/sliced_outputs.h"

namespace skd {

// What reading results through an order costs a slice, in steps: picking 16 of 64 sums takes about
// 2 cycles a row, a step about 0.7.
inline constexpr std::int64_t kOrderInSteps = 3;

// needs: [outputs][windows] the steps that each output needs by itself. Returns an order
// (output_order.h) that lowers the sum of steps over slices and windows, or nothing where what is
// saved is worth less than reading results through an order. The same for the same needs.
//
// Within each block of 64: slices are filled one after another, each from the most demanding output
// left with those that add the fewest steps to it; then pairs of outputs, drawn by a fixed
// sequence, are swapped between slices where that adds no step. Some 0.2 s for 4096 x 4096.
std::vector<std::int32_t> group_outputs(const std::uint8_t* needs, std::int64_t windows,
                                        const SlicedOutputs& layout);

}  // namespace skd
