// The CSR fp32 weight: arbitrary sparsity at full precision.
//
// Stored (interchange) form: that of torch.sparse_csr, canonical.
//   row_ptr [outputs + 1] i64    output o keeps the entries row_ptr[o] .. row_ptr[o + 1]
//   columns [kept]        i32    their inputs, strictly increasing within an output
//   values  [kept]        fp32   finite and not zero
// So a weight has one representation, and pack(unpack(p)) == p.
//
// Derived when loading, never stored: inputs are cut into blocks (so that a block of a K-major
// panel of x stays in L1) and outputs into groups of 64. A group has one run for each block of
// which it keeps anything:
//
//   a run: 16 x 4 outputs, sorted by how many inputs of the block they keep, most first
//     order     [16][4] u8          output = 64 group + order
//     steps     [16]    u16         the most that one of the four keeps
//     positions [sum of steps][4]   u16, input - first input of the block
//     values    [sum of steps][4]   fp32
//            | out 0 | out 1 | out 2 | out 3 |
//     step 0 |  p v  |  p v  |  p v  |  p v  |     each column in ascending order of the inputs
//     step 1 |  p v  |  p v  |  p v  |  pad  |     pad: value -0, position = inputs of the block
//
// In a panel the row after a block's inputs is +0, and -0 * +0 = -0 added to a sum changes no sum,
// not even one of -0; a pad never touches x. Sorting keeps the padding at a few per cent and makes
// the counts predictable for the branch at the end of each run.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernels.h"

namespace skd {

// The stored arrays, as they stand in a file or a tensor.
struct CsrF32Parts {
  const std::int64_t* row_ptr = nullptr;  // [outputs + 1]
  const std::int32_t* columns = nullptr;  // [kept]
  const float* values = nullptr;          // [kept]
  std::int64_t kept = 0;
};

// The same, owned.
struct CsrF32Arrays {
  std::vector<std::int64_t> row_ptr;
  std::vector<std::int32_t> columns;
  std::vector<float> values;
};

// The canonical form of a dense matrix [outputs][inputs]; zeros are dropped. Throws skd::Error on
// NaN and Inf.
CsrF32Arrays pack_csr_f32(const float* dense, std::int64_t outputs, std::int64_t inputs);

class CsrF32Weight {
 public:
  // Validates stored arrays and derives the runs. Throws skd::Error naming the array that is wrong.
  static CsrF32Weight from_parts(const CsrF32Parts& parts, std::int64_t outputs,
                                 std::int64_t inputs);
  // Writes the dense matrix [outputs][inputs].
  void unpack(float* dense) const;

  std::int64_t outputs() const { return outputs_; }
  std::int64_t inputs() const { return inputs_; }
  std::int64_t kept() const { return kept_; }
  std::int64_t groups() const { return static_cast<std::int64_t>(run_ptr_.size()) - 1; }
  std::int64_t packed_bytes() const;  // of the stored arrays

  std::int64_t block_inputs() const { return block_inputs_; }  // the last block may be shorter
  std::int64_t blocks() const;                                 // at least 1
  std::int64_t inputs_of(std::int64_t block) const;

  // The runs of a group are numbers run_begin(group) .. run_begin(group + 1), blocks ascending.
  std::int64_t run_begin(std::int64_t group) const { return run_ptr_[index(group)]; }
  std::int64_t block_of(std::int64_t run) const { return runs_[index(run)].block; }
  CsrF32Run run(std::int64_t run) const;
  // Steps of all groups before `group`, padding included: what the work of a group is measured by.
  std::int64_t steps_before(std::int64_t group) const { return step_ptr_[index(group)]; }

 private:
  struct Run {
    std::int64_t first_step;
    std::int32_t block;
    std::uint16_t steps[kCsrGroup / kCsrLanes];
    std::uint8_t order[kCsrGroup];
  };

  CsrF32Weight() = default;
  static std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }
  std::int64_t add_run(const CsrF32Parts& parts, std::int64_t group, std::int64_t* next);

  std::int64_t outputs_ = 0, inputs_ = 0, kept_ = 0, block_inputs_ = 1;
  std::vector<float> values_;             // [steps][4]
  std::vector<std::uint16_t> positions_;  // [steps][4]
  std::vector<Run> runs_;
  std::vector<std::int64_t> run_ptr_, step_ptr_;  // [groups + 1]
};

}  // namespace skd
