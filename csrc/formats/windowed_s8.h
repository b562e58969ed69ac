// The windowed s8 weight: sparse int8 for gathers inside a register; windowed_weight.h says what
// is not drawn here.
//
//            inputs of one tap:  |<-- window 0: 64 -->|<-- window 1: 64 -->|<- the last, short ->|
//   slice 0  outputs  0..15      |  steps[0][0] steps |  steps[0][1] steps |  ...
//   slice 1  outputs 16..31      |  steps[1][0] steps |  ...
//
//   one step = 64 entries, 4 for each of the slice's 16 outputs:
//     values   [16][4] s8   | lane 0: v0 v1 v2 v3 | lane 1: v0 v1 v2 v3 | ... | lane 15 |   64 B
//     positions[16][4] u8   | lane 0: p0 p1 p2 p3 | ...                                     64 B
//   y[16 slice + lane] += v0 * x[64 window + p0] + ... + v3 * x[64 window + p3]
//
// A word of positions is one position. -128 is refused.
#pragma once

#include <cstdint>

#include "core/buffer.h"
#include "core/check.h"
#include "formats/windowed_weight.h"
#include "kernels/kernels.h"

namespace skd {

struct S8Format {
  using Value = std::int8_t;
  using Word = std::uint8_t;
  using View = WindowedS8;
  static constexpr int kDot = skd::kDot;
  static constexpr bool kShortWindowApart = false;
  static constexpr const char* kName = "int8";

  static PositionPacking packing(int window) {
    require(window == kWindow, "window: ", window, ", expected ", kWindow, " for ", kName);
    return {kWindow, 8, 1};
  }
  static bool is_valid(Value value) { return value != -128; }
  static bool is_kept(Value value) { return value != 0; }
  static bool is_padding(Value value) { return value == 0; }
  static constexpr const char* kValid = "-127..127";
  static int number(Value value) { return value; }

  struct Derived {
    Buffer<std::uint8_t> quarters;     // [steps]
    Buffer<std::int32_t> weight_sums;  // [slices * 16]
    std::int64_t largest_sum = 0;      // max over outputs of sum |w|
  };
  static void derive(WindowedWeight<S8Format>& weight);
};

using WindowedS8Weight = WindowedWeight<S8Format>;
using WindowedS8Parts = WindowedParts<S8Format>;
extern template class WindowedWeight<S8Format>;

}  // namespace skd
