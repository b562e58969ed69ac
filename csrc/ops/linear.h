// y = act(x W^T + b) with int8 weights in either format: quantize the rows of x, accumulate tiles,
// run the epilogue. Work is split over outputs or rows, never over a sum, so the result has the
// same bits for any number of threads.
#pragma once

#include <cstdint>
#include <optional>
#include <variant>

#include "core/buffer.h"
#include "dispatch/dispatch.h"
#include "formats/dense_s8.h"
#include "formats/windowed_s8.h"

namespace skd {

// How activations become u8.
struct ActivationQuant {
  bool dynamic = true;            // symmetric, one scale a row
  float scale = 1.0f;             // static: the scale of the whole tensor
  std::int32_t zero_point = 128;  // static: 0..255; dynamic: always 128
};

// What every int8 layer asks of its numbers: scales finite and > 0 (the static input scale at least
// 2^-120), zero point 0..255, and no sum that could reach 2^31. Sets the zero point of dynamic
// activations. Throws skd::Error.
void check_quantization(ActivationQuant& quant, const float* scale, std::int64_t outputs,
                        std::int64_t largest_weight_sum);

struct LinearCall {
  const float* x;  // [rows][x_stride], inputs used
  std::int64_t rows;
  std::int64_t x_stride;  // floats
  float* y;               // [rows][y_stride], outputs written
  std::int64_t y_stride;
  int threads;
};

// Calls body(part of the call) for `rows` rows at a time.
template <class Body>
void for_each_pass(const LinearCall& call, std::int64_t rows, const Body& body) {
  LinearCall pass = call;
  for (std::int64_t r = 0; r < call.rows; r += rows) {
    pass.rows = call.rows - r < rows ? call.rows - r : rows;
    pass.x = call.x + r * call.x_stride;
    pass.y = call.y + r * call.y_stride;
    body(pass);
  }
}

class LinearS8 {
 public:
  using Weight = std::variant<WindowedS8Weight, DenseS8Weight>;

  // scale: [outputs], finite and > 0. bias: [outputs] or null. Copies both. Throws skd::Error when
  // a scale is not, or when max(zp, 255 - zp) * sum |w| of an output could reach 2^31.
  LinearS8(Weight weight, const float* scale, const float* bias, ActivationQuant quant,
           Activation activation);

  // `table` null: the one in use.
  void forward(const LinearCall& call, const KernelTable* table = nullptr) const;

  std::int64_t outputs() const;
  std::int64_t inputs() const;
  const Weight& weight() const { return weight_; }

 private:
  Weight weight_;
  Buffer<float> scale_, bias_;
  bool has_bias_;
  ActivationQuant quant_;
  Activation activation_;
};

}  // namespace skd
