#include "formats/windowed_bf16.h"

#include <cstring>

namespace skd {

std::uint16_t bf16_from_float(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
  std::uint32_t upper = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
  if (magnitude > 0x7F800000u) upper = bits >> 16 | 0x40u;    // NaN
  if (magnitude < 0x00800000u) upper = bits >> 16 & 0x8000u;  // subnormal or zero
  return static_cast<std::uint16_t>(upper);
}

}  // namespace skd
