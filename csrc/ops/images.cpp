#include "ops/images.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/check.h"
#include "core/threads.h"

namespace skd {
namespace {

constexpr std::int64_t kBlock = 64;  // pixels x channels turned at a time; 4 KB of bytes

// Some channels of some pixels of NCHW planes, one pixel a row of `to`.
void turn(const float* x, ImageShape shape, Range pixels, Range channels, float* to,
          std::int64_t to_stride) {
  for (std::int64_t c = channels.begin; c < channels.end; c += kLanes) {
    const std::int64_t some = std::min<std::int64_t>(kLanes, channels.end - c);
    for (std::int64_t j = pixels.begin; j < pixels.end; ++j) {
      float* row = to + (j - pixels.begin) * to_stride + (c - channels.begin);
      for (std::int64_t i = 0; i < some; ++i) row[i] = x[(c + i) * shape.pixels + j];
    }
  }
}

}  // namespace

void check_u8(const char* what, float scale, std::int32_t zero_point) {
  require(std::isfinite(scale) && scale >= 0x1p-120f, what, " scale: ", scale,
          ", expected a finite number of at least 2^-120");
  require(zero_point >= 0 && zero_point <= 255, what, " zero point: ", zero_point,
          ", expected 0..255");
}

std::uint32_t absolute_maximum_bits(const KernelTable& table, const float* x, std::int64_t begin,
                                    std::int64_t end) {
  const float maximum = table.absolute_maximum(x + begin, end - begin);
  std::uint32_t bits;
  std::memcpy(&bits, &maximum, sizeof bits);
  return bits;
}

void quantize_pixels(const KernelTable& table, const float* x, Layout layout, ImageShape shape,
                     std::int64_t begin, std::int64_t end, float inverse_scale,
                     std::int32_t zero_point, std::uint8_t* u) {
  const std::int64_t channels = shape.channels;
  if (layout == Layout::nhwc) {
    table.quantize_static_u8(x + begin * channels, (end - begin) * channels, inverse_scale,
                             zero_point, u + begin * channels);
    return;
  }
  alignas(64) std::uint8_t block[kBlock][kBlock];  // [channel][pixel]
  for (std::int64_t p = begin; p < end; p += kBlock) {
    const std::int64_t pixels = std::min(kBlock, end - p);
    for (std::int64_t c = 0; c < channels; c += kBlock) {
      const std::int64_t some = std::min(kBlock, channels - c);
      for (std::int64_t i = 0; i < some; ++i) {
        table.quantize_static_u8(x + (c + i) * shape.pixels + p, pixels, inverse_scale, zero_point,
                                 block[i]);
      }
      for (std::int64_t j = 0; j < pixels; ++j) {
        std::uint8_t* to = u + (p + j) * channels + c;
        for (std::int64_t i = 0; i < some; ++i) to[i] = block[i][j];
      }
    }
  }
}

void to_nhwc(const float* x, ImageShape shape, std::int64_t begin, std::int64_t end, float* nhwc) {
  for (std::int64_t p = begin; p < end; p += kBlock) {
    for (std::int64_t c = 0; c < shape.channels; c += kBlock) {
      turn(x, shape, {p, std::min(p + kBlock, end)}, {c, std::min(c + kBlock, shape.channels)},
           nhwc + p * shape.channels + c, shape.channels);
    }
  }
}

void round_pixels(const KernelTable& table, const float* x, Layout layout, ImageShape shape,
                  std::int64_t begin, std::int64_t end, std::uint16_t* nhwc) {
  const std::int64_t channels = shape.channels;
  if (layout == Layout::nhwc) {
    return table.to_bf16(x + begin * channels, (end - begin) * channels, nhwc + begin * channels);
  }
  alignas(64) float block[kBlock][kBlock];
  for (std::int64_t p = begin; p < end; p += kBlock) {
    const Range pixels{p, std::min(p + kBlock, end)};
    for (std::int64_t c = 0; c < channels; c += kBlock) {
      const Range some{c, std::min(c + kBlock, channels)};
      turn(x, shape, pixels, some, block[0], kBlock);
      for (std::int64_t j = pixels.begin; j < pixels.end; ++j) {
        table.to_bf16(block[j - p], some.end - some.begin, nhwc + j * channels + c);
      }
    }
  }
}

void store_planes(const float* tile, std::int64_t tile_stride, std::int64_t count,
                  std::int64_t columns, float* y, std::int64_t plane) {
  for (std::int64_t c = 0; c < columns; ++c) {
    for (std::int64_t r = 0; r < count; ++r) y[c * plane + r] = tile[r * tile_stride + c];
  }
}

void load_planes(const float* x, std::int64_t plane, int count, std::int64_t columns, float* tile,
                 std::int64_t tile_stride) {
  for (std::int64_t c = 0; c < columns; ++c) {
    for (int r = 0; r < count; ++r) tile[r * tile_stride + c] = x[c * plane + r];
  }
}

}  // namespace skd
