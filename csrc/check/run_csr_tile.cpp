// The CSR entry of a kernel table, called directly: the runs of one group of outputs, block after
// block, with every operand on a guard page.
#include <cmath>
#include <numeric>
#include <vector>

#include "check/conv_images.h"
#include "check/data.h"
#include "check/runner.h"
#include "formats/csr_f32.h"

namespace skd::check {
namespace {

CsrF32Weight pack(const Problem& p, const std::vector<float>& dense) {
  const CsrF32Arrays arrays = pack_csr_f32(dense.data(), p.outputs, p.inputs);
  CsrF32Parts parts;
  parts.row_ptr = arrays.row_ptr.data();
  parts.columns = arrays.columns.data();
  parts.values = arrays.values.data();
  parts.kept = static_cast<std::int64_t>(arrays.values.size());
  return CsrF32Weight::from_parts(parts, p.outputs, p.inputs);
}

// One block of x ([rows][inputs]), K-major, with the row of zeros that padding reads.
std::vector<float> panel_of(const Problem& p, const CsrF32Weight& weight, std::int64_t block,
                            const std::vector<float>& x) {
  const std::int64_t first = block * weight.block_inputs(), inputs = weight.inputs_of(block);
  std::vector<float> panel(size((inputs + 1) * p.rows), 0.0f);
  for (std::int64_t k = 0; k < inputs; ++k) {
    for (std::int64_t r = 0; r < p.rows; ++r) {
      panel[size(k * p.rows + r)] = x[size(r * p.inputs + first + k)];
    }
  }
  return panel;
}

CsrF32Run guard_run(const CsrF32Run& run, GuardedMemory& memory) {
  constexpr std::int64_t kRuns = kCsrGroup / kCsrLanes;
  const std::int64_t steps = std::accumulate(run.steps, run.steps + kRuns, std::int64_t{0});
  return {memory.copy("values", run.values, steps * kCsrLanes),
          memory.copy("positions", run.positions, steps * kCsrLanes),
          memory.copy("steps", run.steps, kRuns), memory.copy("order", run.order, kCsrGroup)};
}

// The sums [64][rows] of a group after all its runs.
std::vector<float> accumulate(const Problem& p, const Subject& subject, const CsrF32Weight& weight,
                              std::int64_t group, const std::vector<float>& x, Side side) {
  std::vector<float> sums(size(kCsrGroup * p.rows));
  const std::int64_t count = static_cast<std::int64_t>(sums.size());
  mark(sums.data(), count);
  for (std::int64_t r = weight.run_begin(group); r < weight.run_begin(group + 1); ++r) {
    subject.memory.start(side);
    const std::vector<float> panel = panel_of(p, weight, weight.block_of(r), x);
    const CsrF32Run run = guard_run(weight.run(r), subject.memory);
    CsrF32Tile tile{};
    tile.panel =
        subject.memory.copy("the panel", panel.data(), static_cast<std::int64_t>(panel.size()));
    tile.panel_rows = static_cast<int>(p.rows);
    tile.first = r == weight.run_begin(group);
    tile.acc = subject.memory.copy("acc", sums.data(), count);
    guarded_call(Environment::standard, subject.memory,
                 [&] { subject.table.linear_csr_f32(run, tile); });
    sums.assign(tile.acc, tile.acc + count);
  }
  return sums;
}

// Padding never touches x, so NaN reaches only the outputs that keep its input.
reference::Sum sum_of(const Problem& p, const std::vector<float>& dense, std::int64_t output,
                      const float* x) {
  reference::Sum sum;
  for (std::int64_t k = 0; k < p.inputs; ++k) {
    const float w = dense[size(output * p.inputs + k)];
    if (w == 0) continue;
    sum.tainted = sum.tainted || !std::isfinite(x[k]);
    sum.add(w, x[k]);
  }
  return sum;
}

}  // namespace

Coverage run_tile_csr(const Problem& p, const Subject& subject) {
  Random random(p.seed);
  const std::vector<float> dense = make_float_weights(p, random);
  std::vector<float> x(size(p.rows * p.inputs));
  for (std::int64_t r = 0; r < p.rows; ++r) {
    fill_floats(p.floats, random, x.data() + r * p.inputs, p.inputs);
  }
  const CsrF32Weight weight = pack(p, dense);
  const std::int64_t group = random.in(0, weight.groups() - 1);
  Coverage coverage;
  // The layer above fills in the sums of a group that keeps nothing.
  if (weight.run_begin(group) == weight.run_begin(group + 1)) return coverage;
  for (const Side side : {Side::end, Side::start}) {
    const std::vector<float> sums = accumulate(p, subject, weight, group, x, side);
    for (std::int64_t o = 0; o < kCsrGroup; ++o) {
      const std::int64_t output = group * kCsrGroup + o;
      for (std::int64_t r = 0; r < p.rows; ++r) {
        const float got = sums[size(o * p.rows + r)];
        if (output >= p.outputs) {
          expect(got == 0, "acc[", o, "][", r, "] = ", got, " of no output, expected 0");
          continue;
        }
        const reference::Sum sum = sum_of(p, dense, output, x.data() + r * p.inputs);
        expect_float(o, r, got, sum, Activation::none);
        if (side == Side::end) coverage.count(is_telling(sum, 0));
      }
    }
  }
  return coverage;
}

}  // namespace skd::check
