// y = act(x W^T + b) in fp32 with a CSR weight: transpose panels of up to 64 rows of x, accumulate
// groups of 64 outputs, transpose the sums back, run the epilogue. A sum is never split, so the
// result has the same bits for any number of threads and any split of the rows. Convolutions of
// 1 x 1 run here as well, with the pixels of an NHWC image as rows.
#pragma once

#include <cstdint>

#include "core/buffer.h"
#include "dispatch/dispatch.h"
#include "formats/csr_f32.h"
#include "ops/linear.h"

namespace skd {

class LinearCsr {
 public:
  // bias: [outputs] or null; copied.
  LinearCsr(CsrF32Weight weight, const float* bias, Activation activation);

  // `table` null: the one in use. Scratch: at most 64 rows of x and 80 KB a thread.
  void forward(const LinearCall& call, const KernelTable* table = nullptr) const;

  std::int64_t outputs() const { return weight_.outputs(); }
  std::int64_t inputs() const { return weight_.inputs(); }
  const CsrF32Weight& weight() const { return weight_; }

 private:
  CsrF32Weight weight_;
  Buffer<float> bias_;
  bool has_bias_;
  Activation activation_;
};

}  // namespace skd
