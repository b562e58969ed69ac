// y = act(conv2d(x, W) + b + residual) over NHWC rows. For each tap and output pixel the kernels
// get a pointer to the channels of one input pixel; a shared row that holds the zero point stands
// for padding. So a convolution is a Linear of several taps, and nothing is unfolded in memory.
#pragma once

#include <cstdint>
#include <variant>

#include "core/buffer.h"
#include "formats/dense_s8.h"
#include "formats/depthwise.h"
#include "formats/windowed_bf16.h"
#include "formats/windowed_f32.h"
#include "formats/windowed_s8.h"
#include "ops/conv_call.h"
#include "ops/linear.h"

namespace skd {

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
  // Whether outputs are requantized from the kernels' registers; else by way of sums and fp32.
  bool goes_straight(const ConvOutput& y) const;
  RequantizeU8 requantization(const ConvOutput& y) const;

  Weight weight_;
  ConvGeometry geometry_;
  Buffer<float> scale_, bias_;
  Buffer<float> placed_scale_, placed_bias_;  // static: as RequantizeU8 has them
  double bound_ = 0;                          // static: on |y| before the activation
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
