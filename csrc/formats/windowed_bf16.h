// The windowed bf16 weight, drawn in windowed_float.h, and what rounding to bf16 means: to nearest
// even on the bits of an fp32; a subnormal becomes zero of its sign, because vdpbf16ps takes it for
// zero; NaN stays NaN and quiet.
#pragma once

#include <cstdint>

#include "formats/windowed_float.h"

namespace skd {

using WindowedBf16Weight = WindowedWeight<Bf16Format>;

std::uint16_t bf16_from_float(float x);
inline float float_from_bf16(std::uint16_t bits) { return Bf16Format::number(bits); }

}  // namespace skd
