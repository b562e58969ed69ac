// Sizes are 64-bit and checked: a product that overflows is an error, never a small allocation.
#pragma once

#include <cstdint>

#include "core/check.h"

namespace skd {

inline std::int64_t checked_mul(std::int64_t a, std::int64_t b) {
  std::int64_t product = 0;
  require(a >= 0 && b >= 0 && !__builtin_mul_overflow(a, b, &product), "size ", a, " x ", b,
          " does not fit 63 bits");
  return product;
}

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return a / b + (a % b != 0); }

inline std::int64_t round_up(std::int64_t a, std::int64_t multiple) {
  return checked_mul(ceil_div(a, multiple), multiple);
}

}  // namespace skd
