// The executable specification: every operation of the engine once more, one element at a time, in
// the plainest code that says what docs/numerics.md says. Nothing here is fast, shared with a
// kernel or clever; every path of the engine is tested against it. Call it with round-to-nearest
// and without flushing of subnormals (the default floating-point environment).
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace skd::reference {

// s = absmax / 127, as a product with fp32(1 / 127); u = rne(clamp(x * (1 / s), -127, 127)) + 128.
// absmax < 2^-100: s = 1 and every u is 128. absmax Inf or NaN: s = NaN and every u is 128.
float quantize_dynamic_s8(const float* x, std::int64_t count, std::uint8_t* u);

// u = rne(clamp(x * inverse_scale, -zp, 255 - zp)) + zp; NaN gives zp.
void quantize_static_u8(const float* x, std::int64_t count, float inverse_scale,
                        std::int32_t zero_point, std::uint8_t* u);

// acc[r][o] = sum_k u[r][k] w[o][k] - zero_point * sum_k w[o][k], in 64 bits. dense is
// [outputs][taps][inputs]; rows is [taps][row_count] -> `inputs` bytes; acc is
// [row_count][outputs].
void accumulate(const std::int8_t* dense, std::int64_t outputs, std::int64_t inputs, int taps,
                const std::uint8_t* const* rows, std::int64_t row_count, std::int32_t zero_point,
                std::int64_t* acc);

// One image under a convolution. A tap outside the image adds nothing, which is what padding means.
struct Conv {
  std::int64_t height, width, channels, out_height, out_width, outputs, groups;
  std::int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
};
// acc[pixel][output] = sum (u - zero_point) w over the taps inside the image and the channels of
// the output's group. u: [height][width][channels]; dense: [outputs][kernel_h][kernel_w][channels /
// groups].
void convolve_s8(const Conv& conv, const std::uint8_t* u, std::int32_t zero_point,
                 const std::int8_t* dense, std::int64_t* acc);

// One image under a pooling window; the padding is the same on both sides.
struct Pool {
  std::int64_t height, width, channels;
  std::int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w;
  bool ceil_mode;
};
// Outputs along an axis, by torch's rule: as many windows as fit, and with ceil_mode those that
// start before the padding behind the image.
std::int64_t pooled_size(std::int64_t size, std::int64_t kernel, std::int64_t stride,
                         std::int64_t dilation, std::int64_t pad, bool ceil_mode);
// One output of one channel. x: [height][width][channels].
std::uint8_t max_pool_u8(const Pool& pool, const std::uint8_t* x, std::int64_t oy, std::int64_t ox,
                         std::int64_t channel);
float max_pool_f32(const Pool& pool, const float* x, std::int64_t oy, std::int64_t ox,
                   std::int64_t channel);
// The sum of (x - zero_point) over the pixels inside the image, and how many of them there are;
// with padding: how many lie inside the image or its padding.
struct PoolSum {
  std::int64_t sum = 0, inside = 0, with_padding = 0;
  float sum_f32 = 0;  // of fp32 images, added row by row
};
PoolSum sum_pool_u8(const Pool& pool, const std::uint8_t* x, std::int32_t zero_point,
                    std::int64_t oy, std::int64_t ox, std::int64_t channel);
PoolSum sum_pool_f32(const Pool& pool, const float* x, std::int64_t oy, std::int64_t ox,
                     std::int64_t channel);

// A sum of products in float64, and what is needed to judge one in fp32.
struct Sum {
  double value = 0, magnitude = 0;  // sum of the products, and of their absolute values
  std::int64_t terms = 0;
  bool tainted = false;  // NaN or Inf stands in an input that the kernel may read

  void add(float w, float x);  // a kept weight and its input
  void add_bias(float bias);
};
// The sums [pixel][output] of one image in fp32, as convolve_s8 has them in integers; weights of
// zero are left out.
void convolve_f32(const Conv& conv, const float* x, const float* dense, Sum* sums);
// 2 gamma_n magnitude + n 2^-126, gamma_n = n u / (1 - n u), u = 2^-24.
double sum_bound(const Sum& sum);

// To bf16 and back: 8 significant bits, ties to even; subnormals become zero, NaN stays.
float round_bf16(float x);

// float(acc) * (row_scale * scale), then + *bias unless bias is null; each step rounded to fp32.
float dequantize(std::int64_t acc, float row_scale, float scale, const float* bias);

// float(u - zero_point) * scale.
float dequantize_u8(std::uint8_t u, float scale, std::int32_t zero_point);

// The activation of one fp32 value. GELU, x Phi(x) with the exact error function, and SiLU,
// x / (1 + exp(-x)), in float64; the others as fp32 defines them, hardswish as x relu6(x + 3) / 6
// with each step rounded.
double activate(Activation activation, double y);

// What `activate` allows an implementation in fp32 to differ by: for GELU and SiLU 4 ulp of the
// result + 1e-7, for the others nothing.
double activation_bound(Activation activation, double exact);

// y = x W^T + b before any activation, as an int8 layer computes it.
struct LinearS8Job {
  const float* x;  // [rows][x_stride]
  std::int64_t rows, x_stride;
  const std::int8_t* dense;  // [outputs][inputs]
  std::int64_t outputs, inputs;
  const float* scale;  // [outputs]
  const float* bias;   // [outputs] or null
  bool dynamic;
  float static_scale;       // static only
  std::int32_t zero_point;  // static only
  std::uint8_t* u;          // [inputs] scratch
  std::int64_t* acc;        // [outputs] scratch
  float* y;                 // [rows][outputs]
};
void linear_s8(const LinearS8Job& job);

}  // namespace skd::reference
