// What a convolution is called with: its geometry, its images in and out.
#pragma once

#include <cstdint>

#include "ops/images.h"

namespace skd {

struct ConvGeometry {
  std::int64_t in_channels, out_channels, groups;
  std::int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  std::int64_t pad_top, pad_bottom, pad_left, pad_right;
  // Whether the weight is cut along rows: its taps are the rows of the kernel, each with the
  // kernel_w * in_channels inputs that lie side by side in an image (ops/conv_runs.h).
  bool rows = false;

  bool is_pointwise() const {
    return kernel_h * kernel_w * stride_h * stride_w == 1 &&
           pad_top + pad_bottom + pad_left + pad_right == 0;
  }
  // Taps of the weight, and the inputs that an output reads under each.
  int taps() const { return static_cast<int>(rows ? kernel_h : kernel_h * kernel_w); }
  std::int64_t tap_inputs() const { return rows ? kernel_w * in_channels : in_channels / groups; }
  // Whether the weight may be cut along rows.
  bool can_have_rows() const;
  std::int64_t out_height(std::int64_t height) const;
  std::int64_t out_width(std::int64_t width) const;
  // Throws skd::Error on absurd values: zero strides, negative padding, groups that do not divide,
  // rows of a convolution that does not read them in one piece.
  void check() const;
};

// Contiguous images. fp32 in either layout, or u8 in NHWC with the layer's own input quantization.
struct ConvInput {
  const float* f32;        // or null
  const std::uint8_t* u8;  // or null
  Layout layout;
  std::int64_t batch, height, width;
};

// Images of the output's shape that are added before the activation: fp32 in either layout, or u8
// in NHWC quantized with `scale` and `zero_point`; nothing is added where there are none.
struct ConvResidual {
  const float* f32 = nullptr;
  const std::uint8_t* u8 = nullptr;
  Layout layout = Layout::nhwc;
  float scale = 1;
  std::int32_t zero_point = 0;
};

// fp32 in either layout, or u8 in NHWC quantized with `scale` and `zero_point`.
struct ConvOutput {
  float* f32;        // or null
  std::uint8_t* u8;  // or null
  Layout layout;
  float scale;
  std::int32_t zero_point;
  ConvResidual residual = {};
};

// Throws unless sizes, pointers and layouts go together and the output is not empty.
void check_call(const ConvGeometry& g, const ConvInput& x, const ConvOutput& y);

}  // namespace skd
