// y = act(a + b), element by element, each side fp32 or u8 with a scale and a zero point.
#pragma once

#include <cstdint>

#include "ops/images.h"

namespace skd {

template <class Byte, class Float>
struct Elements {
  Float* f32;  // or null
  Byte* u8;    // or null
  U8Scale scale = {};
};
using AddInput = Elements<const std::uint8_t, const float>;
using AddOutput = Elements<std::uint8_t, float>;

void add(const AddInput& a, const AddInput& b, const AddOutput& y, std::int64_t count,
         Activation activation, int threads, const KernelTable* table = nullptr);

}  // namespace skd
