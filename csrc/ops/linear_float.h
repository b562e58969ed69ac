// y = act(x W^T + b) with windowed fp32 or bf16 weights. fp32 reads the rows of x where they are;
// bf16 rounds them first. Work is split over outputs or rows, never over a sum, so the result has
// the same bits for any number of threads and any composition of the batch.
#pragma once

#include <cstdint>
#include <variant>

#include "core/buffer.h"
#include "dispatch/dispatch.h"
#include "formats/windowed_bf16.h"
#include "formats/windowed_f32.h"
#include "ops/linear.h"

namespace skd {

class LinearFloat {
 public:
  using Weight = std::variant<WindowedF32Weight, WindowedBf16Weight>;

  // bias: [outputs] or null; copied.
  LinearFloat(Weight weight, const float* bias, Activation activation);

  // `table` null: the one in use.
  void forward(const LinearCall& call, const KernelTable* table = nullptr) const;

  std::int64_t outputs() const;
  std::int64_t inputs() const;
  const Weight& weight() const { return weight_; }

 private:
  Weight weight_;
  Buffer<float> bias_;
  bool has_bias_;
  Activation activation_;
};

}  // namespace skd
