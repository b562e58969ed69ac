// What kernels that write u8 from their registers need: whether they may, and the bytes that an
// activation clamps to.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "ops/images.h"

namespace skd {

inline bool is_clamp(Activation activation) {
  return activation == Activation::none || activation == Activation::relu ||
         activation == Activation::relu6;
}

// `bound` is on |y| before the activation, which must stay finite in fp32; RequantizeU8 asks for
// |y / scale| < 2^29.
inline bool fits_registers(double bound, float scale) {
  return bound < 0x1p29 * scale && bound < 0x1p127;
}

struct ByteClamp {
  std::uint8_t low, high;
};
// Under round to nearest.
inline ByteClamp clamp_of(Activation activation, U8Scale to) {
  const float most = static_cast<float>(255 - to.zero_point);
  const float six = std::nearbyint(std::min(6.0f * (1.0f / to.scale), most));
  const float high = activation == Activation::relu6 ? six : most;
  return {static_cast<std::uint8_t>(activation == Activation::none ? 0 : to.zero_point),
          static_cast<std::uint8_t>(static_cast<int>(high) + to.zero_point)};
}

}  // namespace skd
