// Pooling, one element at a time.
#include <cmath>

#include "kernels/reference.h"

namespace skd::reference {
namespace {

// Calls add(offset in the image) for every pixel of a window inside the image, row by row; returns
// how many lie inside the image or its padding.
template <class Add>
std::int64_t for_each_pixel(const Pool& p, std::int64_t oy, std::int64_t ox, std::int64_t channel,
                            const Add& add) {
  std::int64_t with_padding = 0;
  for (std::int64_t ky = 0; ky < p.kernel_h; ++ky) {
    for (std::int64_t kx = 0; kx < p.kernel_w; ++kx) {
      const std::int64_t y = oy * p.stride_h - p.pad_h + ky * p.dilation_h;
      const std::int64_t x = ox * p.stride_w - p.pad_w + kx * p.dilation_w;
      if (y < p.height + p.pad_h && x < p.width + p.pad_w) ++with_padding;
      if (y < 0 || y >= p.height || x < 0 || x >= p.width) continue;
      add((y * p.width + x) * p.channels + channel);
    }
  }
  return with_padding;
}

}  // namespace

std::int64_t pooled_size(std::int64_t size, std::int64_t kernel, std::int64_t stride,
                         std::int64_t dilation, std::int64_t pad, bool ceil_mode) {
  std::int64_t count = 0;
  for (std::int64_t start = -pad;; start += stride, ++count) {
    const bool fits = start + dilation * (kernel - 1) < size + pad;
    // The one window after those that fit: it ends less than a stride behind them.
    const bool reaches =
        ceil_mode && start < size && start + dilation * (kernel - 1) < size + pad + stride - 1;
    if (!fits && !reaches) return count;
  }
}

std::uint8_t max_pool_u8(const Pool& pool, const std::uint8_t* x, std::int64_t oy, std::int64_t ox,
                         std::int64_t channel) {
  std::uint8_t most = 0;
  for_each_pixel(pool, oy, ox, channel, [&](std::int64_t at) {
    if (x[at] > most) most = x[at];
  });
  return most;
}

float max_pool_f32(const Pool& pool, const float* x, std::int64_t oy, std::int64_t ox,
                   std::int64_t channel) {
  float most = -INFINITY;
  for_each_pixel(pool, oy, ox, channel, [&](std::int64_t at) {
    if (x[at] > most || std::isnan(x[at])) most = x[at];
  });
  return most;
}

PoolSum sum_pool_u8(const Pool& pool, const std::uint8_t* x, std::int32_t zero_point,
                    std::int64_t oy, std::int64_t ox, std::int64_t channel) {
  PoolSum sum;
  sum.with_padding = for_each_pixel(pool, oy, ox, channel, [&](std::int64_t at) {
    sum.sum += x[at] - zero_point;
    ++sum.inside;
  });
  return sum;
}

PoolSum sum_pool_f32(const Pool& pool, const float* x, std::int64_t oy, std::int64_t ox,
                     std::int64_t channel) {
  PoolSum sum;
  sum.with_padding = for_each_pixel(pool, oy, ox, channel, [&](std::int64_t at) {
    sum.sum_f32 += x[at];
    ++sum.inside;
  });
  return sum;
}

}  // namespace skd::reference
