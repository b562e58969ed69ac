// y = act(conv2d(x, W) + b) over NHWC rows. For each tap and output pixel the kernels get a pointer
// to the channels of one input pixel; a shared row that holds the zero point stands for padding. So
// a convolution is a Linear of several taps, and nothing is unfolded in memory.
#pragma once

#include <cstdint>
#include <variant>

#include "core/buffer.h"
#include "formats/dense_s8.h"
#include "formats/depthwise.h"
#include "formats/windowed_bf16.h"
#include "formats/windowed_f32.h"
#include "formats/windowed_s8.h"
#include "ops/images.h"
#include "ops/linear.h"

namespace skd {

struct ConvGeometry {
  std::int64_t in_channels, out_channels, groups;
  std::int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  std::int64_t pad_top, pad_bottom, pad_left, pad_right;

  int taps() const { return static_cast<int>(kernel_h * kernel_w); }
  std::int64_t out_height(std::int64_t height) const;
  std::int64_t out_width(std::int64_t width) const;
  // Throws skd::Error on absurd values: zero strides, negative padding, groups that do not divide.
  void check() const;
};

// Contiguous images. fp32 in either layout, or u8 in NHWC with the layer's own input quantization.
struct ConvInput {
  const float* f32;        // or null
  const std::uint8_t* u8;  // or null
  Layout layout;
  std::int64_t batch, height, width;
};

// fp32 in either layout, or u8 in NHWC quantized with `scale` and `zero_point`.
struct ConvOutput {
  float* f32;        // or null
  std::uint8_t* u8;  // or null
  Layout layout;
  float scale;
  std::int32_t zero_point;
};

class Conv2dS8 {
 public:
  using Weight = std::variant<WindowedS8Weight, DenseS8Weight, DepthwiseS8Weight>;

  // scale: [out_channels], finite and > 0. bias: [out_channels] or null. Copies both. Dynamic
  // activations have one scale a sample, since an output sums taps of several pixels.
  Conv2dS8(Weight weight, const ConvGeometry& geometry, const float* scale, const float* bias,
           ActivationQuant quant, Activation activation);

  // `table` null: the one in use. Throws when the output would be empty, or on u8 input of a layer
  // with dynamic activations.
  void forward(const ConvInput& x, const ConvOutput& y, int threads,
               const KernelTable* table = nullptr) const;

  const ConvGeometry& geometry() const { return geometry_; }
  const Weight& weight() const { return weight_; }

 private:
  Weight weight_;
  ConvGeometry geometry_;
  Buffer<float> scale_, bias_;
  bool has_bias_;
  ActivationQuant quant_;
  Activation activation_;
};

// The same in fp32 or bf16, with fp32 sums. NCHW input is copied to NHWC first, and bf16 weights
// take rounded input.
class Conv2dFloat {
 public:
  using Weight = std::variant<WindowedF32Weight, WindowedBf16Weight, DepthwiseF32Weight>;

  Conv2dFloat(Weight weight, const ConvGeometry& geometry, const float* bias,
              Activation activation);
  void forward(const ConvInput& x, const ConvOutput& y, int threads,
               const KernelTable* table = nullptr) const;
  const ConvGeometry& geometry() const { return geometry_; }

 private:
  Weight weight_;
  ConvGeometry geometry_;
  Buffer<float> bias_;
  bool has_bias_;
  Activation activation_;
};

}  // namespace skd
