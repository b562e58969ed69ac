// Max and average pooling of images in u8 (NHWC) or fp32 (either layout), as torch defines them.
#pragma once

#include <cstdint>

#include "ops/images.h"

namespace skd {

// Padding stands on both sides of an axis. `ceil_mode` lets a last window reach past the padding,
// as long as it starts inside the image or the padding before it.
struct PoolGeometry {
  std::int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w;
  bool ceil_mode;

  std::int64_t out_height(std::int64_t height) const;
  std::int64_t out_width(std::int64_t width) const;
  // Throws skd::Error on absurd values: zero strides, padding of more than half a window.
  void check() const;
};

// Contiguous images, fp32 or u8.
template <class Byte, class Float>
struct PoolImages {
  Float* f32;  // or null
  Byte* u8;    // or null
  Layout layout;
  U8Scale scale = {};  // of an average's u8
};
using PoolInput = PoolImages<const std::uint8_t, const float>;
using PoolOutput = PoolImages<std::uint8_t, float>;

struct PoolShape {
  std::int64_t batch, channels, height, width;  // of the input
};

// Output of the input's dtype. Padding never wins; fp32: NaN wins.
void max_pool2d(const PoolGeometry& geometry, const PoolShape& shape, const PoolInput& x,
                const PoolOutput& y, int threads, const KernelTable* table = nullptr);

// How many pixels a sum is divided by: of the window with its padding, or those of the image alone;
// or a number of the caller's.
struct PoolDivisor {
  bool include_pad;
  std::int64_t override_by;  // 0: none
};

// u8 (no dilation) to u8 or fp32, fp32 to fp32.
void avg_pool2d(const PoolGeometry& geometry, const PoolShape& shape, const PoolInput& x,
                const PoolOutput& y, PoolDivisor divisor, int threads,
                const KernelTable* table = nullptr);

}  // namespace skd
