// The windowed fp32 and bf16 weights: one (fp32) or two (bf16) kept weights a lane and step, and
// packed positions; windowed_weight.h says what is not drawn here.
//
//            inputs of one tap:  |<-- window 0: W -->|<-- window 1: W -->|<- the last, short ->|
//   slice 0  outputs  0..15      |  steps[0][0] steps|  steps[0][1] steps|  ...
//   slice 1  outputs 16..31      |  steps[1][0] steps|  ...
//
//   one step, 64 bytes of values:
//     fp32  values[16]    f32    | lane 0: v | lane 1: v | ...                      | lane 15 |
//     bf16  values[16][2] u16    | lane 0: v0 v1 | lane 1: v0 v1 | ...              | lane 15 |
//   one word of positions a lane (fp32: u32 [16]; bf16: u16 [16][2]) serves several steps, the
//   first in the lowest bits:
//     fp32, W = 16    |t7  |t6  |t5  |t4  |t3  |t2  |t1  |t0  |      4 bits, 8 steps a word
//     fp32, W = 32    |00|t5   |t4   |t3   |t2   |t1   |t0   |       5 bits, 6 steps a word
//     bf16, W = 32    |0|t2   |t1   |t0   |                          5 bits, 3 steps a word
//   y[16 slice + lane] += v * x[W window + position]
//
// Words run on over the windows of a slice: step t of the slice stands at row step_ptr[slice] + t
// of `values`, and its positions at row word_ptr[slice] + t / per_word of `positions`, from bit
// bits * (t % per_word) on. Each slice starts a word of its own:
//   word_ptr[slice + 1] = word_ptr[slice] + ceil((step_ptr[slice + 1] - step_ptr[slice]) /
//   per_word)
// which is derived on loading and never stored. NaN and Inf are refused. fp32 keeps what is not
// zero, bf16 what is neither zero nor subnormal, which vdpbf16ps takes for zero.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/check.h"
#include "formats/windowed_weight.h"
#include "kernels/kernels.h"

namespace skd {

// What both formats derive: the view alone.
struct NothingDerived {};

struct F32Format {
  using Value = float;
  using Word = std::uint32_t;
  using View = WindowedF32;
  static constexpr int kDot = 1;
  static constexpr bool kShortWindowApart = true;
  static constexpr const char* kName = "fp32";

  static PositionPacking packing(int window) {
    require(window == 16 || window == 32, "window: ", window, ", expected 16 or 32 for ", kName);
    return window == 16 ? kF32Window16 : kF32Window32;
  }
  static bool is_valid(Value value) { return std::isfinite(value); }
  static bool is_kept(Value value) { return value != 0.0f; }
  static bool is_padding(Value value) {
    const Value zero = 0;
    return std::memcmp(&value, &zero, sizeof zero) == 0;
  }
  static constexpr const char* kValid = "finite numbers";
  static float number(Value value) { return value; }

  using Derived = NothingDerived;
  static void derive(WindowedWeight<F32Format>& weight) {
    weight.view_.word_ptr = weight.word_ptr_.data();
    weight.view_.window = weight.shape_.window;
  }
};

struct Bf16Format {
  using Value = std::uint16_t;  // bits
  using Word = std::uint16_t;
  using View = WindowedBf16;
  static constexpr int kDot = 2;
  static constexpr bool kShortWindowApart = true;
  static constexpr const char* kName = "bf16";

  static PositionPacking packing(int window) {
    require(window == kBf16Window32.window, "window: ", window, ", expected ", kBf16Window32.window,
            " for ", kName);
    return kBf16Window32;
  }
  static bool is_valid(Value value) { return (value & 0x7F80u) != 0x7F80u; }
  static bool is_kept(Value value) { return (value & 0x7F80u) != 0; }
  static bool is_padding(Value value) { return value == 0; }
  static constexpr const char* kValid = "finite numbers";
  static float number(Value value) {
    const std::uint32_t wide = std::uint32_t{value} << 16;
    float x;
    std::memcpy(&x, &wide, sizeof x);
    return x;
  }

  using Derived = NothingDerived;
  static void derive(WindowedWeight<Bf16Format>& weight) {
    weight.view_.word_ptr = weight.word_ptr_.data();
  }
};

extern template class WindowedWeight<F32Format>;
extern template class WindowedWeight<Bf16Format>;

}  // namespace skd
