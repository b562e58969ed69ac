#include "kernels/reference.h"

#include <cmath>
#include <cstring>

namespace skd::reference {
namespace {

constexpr float kInv127 = 1.0f / 127.0f;
constexpr float kTiny = 0x1p-100f;

// Round half to even, then to the integer type: `value` lies in [-255, 255].
int round_to_int(float value) { return static_cast<int>(std::nearbyint(value)); }

float clamp(float value, float low, float high) {
  if (value < low) return low;
  if (value > high) return high;
  return value;
}

// The largest |x| as a maximum over bit patterns, so that NaN beats every number.
float absolute_maximum(const float* x, std::int64_t count) {
  std::uint32_t largest = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, &x[i], sizeof(bits));
    bits &= 0x7fffffffu;
    if (bits > largest) largest = bits;
  }
  float value;
  std::memcpy(&value, &largest, sizeof(value));
  return value;
}

// Calls add(pixel, output, offset in the image, offset in the weight) for every product of a
// convolution.
template <class Add>
void for_each_product(const Conv& c, const Add& add) {
  const std::int64_t inputs = c.channels / c.groups, per_group = c.outputs / c.groups;
  for (std::int64_t pixel = 0; pixel < c.out_height * c.out_width; ++pixel) {
    for (std::int64_t tap = 0; tap < c.kernel_h * c.kernel_w; ++tap) {
      const std::int64_t y =
          pixel / c.out_width * c.stride_h + tap / c.kernel_w * c.dilation_h - c.pad_top;
      const std::int64_t x =
          pixel % c.out_width * c.stride_w + tap % c.kernel_w * c.dilation_w - c.pad_left;
      if (y < 0 || y >= c.height || x < 0 || x >= c.width) continue;
      for (std::int64_t o = 0; o < c.outputs; ++o) {
        const std::int64_t image = (y * c.width + x) * c.channels + o / per_group * inputs;
        const std::int64_t weight = (o * c.kernel_h * c.kernel_w + tap) * inputs;
        for (std::int64_t k = 0; k < inputs; ++k) add(pixel, o, image + k, weight + k);
      }
    }
  }
}

}  // namespace

float quantize_dynamic_s8(const float* x, std::int64_t count, std::uint8_t* u) {
  const float absmax = absolute_maximum(x, count);
  if (!std::isfinite(absmax) || absmax < kTiny) {
    for (std::int64_t i = 0; i < count; ++i) u[i] = 128;
    return std::isfinite(absmax) ? 1.0f : NAN;
  }
  const float scale = absmax * kInv127;
  const float inverse = 1.0f / scale;
  for (std::int64_t i = 0; i < count; ++i) {
    u[i] = static_cast<std::uint8_t>(round_to_int(clamp(x[i] * inverse, -127.0f, 127.0f)) + 128);
  }
  return scale;
}

void quantize_static_u8(const float* x, std::int64_t count, float inverse_scale,
                        std::int32_t zero_point, std::uint8_t* u) {
  const float low = static_cast<float>(-zero_point), high = static_cast<float>(255 - zero_point);
  for (std::int64_t i = 0; i < count; ++i) {
    const float scaled = x[i] * inverse_scale;
    const int q = std::isnan(scaled) ? 0 : round_to_int(clamp(scaled, low, high));
    u[i] = static_cast<std::uint8_t>(q + zero_point);
  }
}

void accumulate(const std::int8_t* dense, std::int64_t outputs, std::int64_t inputs, int taps,
                const std::uint8_t* const* rows, std::int64_t row_count, std::int32_t zero_point,
                std::int64_t* acc) {
  for (std::int64_t r = 0; r < row_count; ++r) {
    for (std::int64_t o = 0; o < outputs; ++o) {
      std::int64_t products = 0, weights = 0;
      for (int tap = 0; tap < taps; ++tap) {
        const std::uint8_t* u = rows[tap * row_count + r];
        const std::int8_t* w = dense + (o * taps + tap) * inputs;
        for (std::int64_t k = 0; k < inputs; ++k) {
          products += static_cast<std::int64_t>(u[k]) * w[k];
          weights += w[k];
        }
      }
      acc[r * outputs + o] = products - zero_point * weights;
    }
  }
}

void convolve_s8(const Conv& conv, const std::uint8_t* u, std::int32_t zero_point,
                 const std::int8_t* dense, std::int64_t* acc) {
  for (std::int64_t i = 0; i < conv.out_height * conv.out_width * conv.outputs; ++i) acc[i] = 0;
  for_each_product(
      conv, [&](std::int64_t pixel, std::int64_t output, std::int64_t image, std::int64_t weight) {
        acc[pixel * conv.outputs + output] +=
            (static_cast<std::int64_t>(u[image]) - zero_point) * dense[weight];
      });
}

void Sum::add(float w, float x) {
  const double product = static_cast<double>(w) * x;
  value += product;
  magnitude += std::fabs(product);
  ++terms;
}

void Sum::add_bias(float bias) {
  value += bias;
  magnitude += std::fabs(bias);
  ++terms;
}

void convolve_f32(const Conv& conv, const float* x, const float* dense, Sum* sums) {
  for (std::int64_t i = 0; i < conv.out_height * conv.out_width * conv.outputs; ++i) sums[i] = {};
  for_each_product(
      conv, [&](std::int64_t pixel, std::int64_t output, std::int64_t image, std::int64_t weight) {
        Sum& sum = sums[pixel * conv.outputs + output];
        sum.tainted = sum.tainted || !std::isfinite(x[image]);
        if (dense[weight] != 0) sum.add(dense[weight], x[image]);
      });
}

double sum_bound(const Sum& sum) {
  const double n = static_cast<double>(sum.terms), gamma = n * 0x1p-24 / (1 - n * 0x1p-24);
  return 2 * gamma * sum.magnitude + n * 0x1p-126;
}

float round_bf16(float x) {
  if (std::isnan(x) || std::isinf(x)) return x;
  if (std::fabs(x) < 0x1p-126f) return std::copysign(0.0f, x);
  int exponent;
  const double fraction = std::frexp(static_cast<double>(x), &exponent);  // 0.5 <= |f| < 1
  return static_cast<float>(std::ldexp(std::nearbyint(fraction * 256), exponent - 8));
}

float dequantize(std::int64_t acc, float row_scale, float scale, const float* bias) {
  const float both = row_scale * scale;
  const float y = static_cast<float>(acc) * both;
  return bias == nullptr ? y : y + *bias;
}

float dequantize_u8(std::uint8_t u, float scale, std::int32_t zero_point) {
  return static_cast<float>(u - zero_point) * scale;
}

double activate(Activation activation, double y) {
  switch (activation) {
    case Activation::none:
      return y;
    case Activation::relu:
      return y < 0 ? 0 : y;
    case Activation::gelu:
      return 0.5 * y * std::erfc(-y * std::sqrt(0.5));
    case Activation::silu:
      return y / (1 + std::exp(-y));
    case Activation::relu6:
      return y < 0 ? 0 : y > 6 ? 6 : y;
    case Activation::hardswish: {
      const float x = static_cast<float>(y);
      const float shifted = x + 3.0f;
      const float product = x * clamp(shifted, 0.0f, 6.0f);
      return product / 6.0f;
    }
  }
  return NAN;
}

double activation_bound(Activation activation, double exact) {
  if (activation != Activation::gelu && activation != Activation::silu) return 0;
  const float rounded = std::fabs(static_cast<float>(exact));
  const double ulp = static_cast<double>(std::nextafter(rounded, INFINITY)) - rounded;
  return 4 * ulp + 1e-7;
}

void linear_s8(const LinearS8Job& job) {
  const float inverse = 1.0f / job.static_scale;
  for (std::int64_t r = 0; r < job.rows; ++r) {
    const float* x = job.x + r * job.x_stride;
    float row_scale = job.static_scale;
    if (job.dynamic) {
      row_scale = quantize_dynamic_s8(x, job.inputs, job.u);
    } else {
      quantize_static_u8(x, job.inputs, inverse, job.zero_point, job.u);
    }
    const std::int32_t zero_point = job.dynamic ? 128 : job.zero_point;
    const std::uint8_t* row = job.u;
    accumulate(job.dense, job.outputs, job.inputs, 1, &row, 1, zero_point, job.acc);
    for (std::int64_t o = 0; o < job.outputs; ++o) {
      const float* bias = job.bias == nullptr ? nullptr : job.bias + o;
      job.y[r * job.outputs + o] = dequantize(job.acc[o], row_scale, job.scale[o], bias);
    }
  }
}

}  // namespace skd::reference
