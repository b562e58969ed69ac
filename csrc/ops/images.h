// Images between the caller's layout and the NHWC rows that the kernels read.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace skd {

enum class Layout : int { nchw = 0, nhwc = 1 };

// What the bytes of u8 images stand for: (u - zero_point) * scale.
struct U8Scale {
  float scale = 1;
  std::int32_t zero_point = 0;
};
// Throws unless `scale` and `zero_point` can be those of u8 images; `what` names them.
void check_u8(const char* what, float scale, std::int32_t zero_point);

struct ImageShape {
  std::int64_t pixels;  // height * width
  std::int64_t channels;
};

// The absolute maximum of elements [begin, end) of an image of any layout, as fp32 bits without the
// sign: integers that compare like the numbers, with NaN above Inf above all others.
std::uint32_t absolute_maximum_bits(const KernelTable& table, const float* x, std::int64_t begin,
                                    std::int64_t end);

// Pixels [begin, end) of an fp32 image to u8 NHWC; u is the start of the whole u8 image.
void quantize_pixels(const KernelTable& table, const float* x, Layout layout, ImageShape shape,
                     std::int64_t begin, std::int64_t end, float inverse_scale,
                     std::int32_t zero_point, std::uint8_t* u);

// Pixels [begin, end) of an fp32 NCHW image to NHWC.
void to_nhwc(const float* x, ImageShape shape, std::int64_t begin, std::int64_t end, float* nhwc);

// Pixels [begin, end) of an fp32 image to bf16 NHWC.
void round_pixels(const KernelTable& table, const float* x, Layout layout, ImageShape shape,
                  std::int64_t begin, std::int64_t end, std::uint16_t* nhwc);

// A tile [count][columns] of row stride tile_stride to pixels of NCHW planes: plane c starts at
// y + c * plane.
void store_planes(const float* tile, std::int64_t tile_stride, std::int64_t count,
                  std::int64_t columns, float* y, std::int64_t plane);
// The way back: pixels of NCHW planes to a tile.
void load_planes(const float* x, std::int64_t plane, int count, std::int64_t columns, float* tile,
                 std::int64_t tile_stride);

}  // namespace skd
