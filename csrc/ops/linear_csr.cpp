#include "ops/linear_csr.h"

#include <algorithm>
#include <utility>

#include "core/check.h"
#include "core/sizes.h"
#include "core/threads.h"

namespace skd {
namespace {

constexpr std::int64_t kChunkGroups = 4;  // 1 KB of each output row is written at a time
constexpr std::int64_t kChunkOutputs = kChunkGroups * kCsrGroup;
constexpr std::int64_t kAccFloats = kChunkOutputs * kCsrRows;  // 64 KB
constexpr std::int64_t kTileFloats = kChunkOutputs * kLanes;   // 16 KB
// A parallel region costs about half a microsecond, in which a core does some 2000 multiply-adds
// of vectors of 16; it pays from about four times that on.
constexpr std::int64_t kParallelWork = 8192;
// Packing this many floats costs as much as a barrier.
constexpr std::int64_t kSelfPacked = 8192;
// What a group costs beside its kept weights, in steps of four: loading, turning and storing sums.
constexpr std::int64_t kGroupSteps = 64;

struct Job {
  const CsrF32Weight& weight;
  const KernelTable& table;
  const LinearCall& call;
  const float* bias;  // or null
  Activation activation;

  std::int64_t panels;     // that the rows are cut into, nearly equal in vectors of 16
  std::int64_t most_rows;  // of a panel: 1 for a single row, else a multiple of 16

  std::int64_t panel_floats() const {
    return round_up(checked_mul(weight.inputs() + weight.blocks(), most_rows), kLanes);
  }
  Range rows_of(std::int64_t panel) const {
    const Range vectors = part_of(ceil_div(call.rows, kLanes), panel, panels);
    return {vectors.begin * kLanes, std::min(vectors.end * kLanes, call.rows)};
  }
  static int padded(Range rows) {
    const std::int64_t count = rows.end - rows.begin;
    return count == 1 ? 1 : static_cast<int>(ceil_div(count, kLanes) * kLanes);
  }

  // x of one panel and block, K-major, with a row of zeros after it.
  void pack(Range rows, std::int64_t block, float* panel) const {
    const int stride = padded(rows);
    const std::int64_t input = block * weight.block_inputs(), inputs = weight.inputs_of(block);
    const float* x = call.x + rows.begin * call.x_stride + input;
    float* to = panel + (input + block) * stride;
    if (stride == 1) {
      std::copy_n(x, inputs, to);
    } else {
      table.transpose_f32({x, call.x_stride, rows.end - rows.begin, inputs, to, stride});
    }
    std::fill_n(to + inputs * stride, stride, 0.0f);
  }

  // Sums of `groups` (at most kChunkGroups), block by block, so that a block of the panel serves
  // them all from L1.
  void accumulate(Range groups, const float* panel, int panel_rows, float* acc) const {
    std::int64_t next[kChunkGroups], end[kChunkGroups];
    const std::int64_t count = groups.end - groups.begin;
    const std::int64_t acc_floats = kCsrGroup * std::int64_t{panel_rows};
    for (std::int64_t g = 0; g < count; ++g) {
      next[g] = weight.run_begin(groups.begin + g);
      end[g] = weight.run_begin(groups.begin + g + 1);
      if (next[g] == end[g]) std::fill_n(acc + g * acc_floats, acc_floats, 0.0f);
    }
    for (std::int64_t block = 0; block < weight.blocks(); ++block) {
      const float* part = panel + block * (weight.block_inputs() + 1) * panel_rows;
      for (std::int64_t g = 0; g < count; ++g) {
        if (next[g] == end[g] || weight.block_of(next[g]) != block) continue;
        const bool first = next[g] == weight.run_begin(groups.begin + g);
        table.linear_csr_f32(weight.run(next[g]++),
                             {part, panel_rows, first, acc + g * acc_floats});
      }
    }
  }

  void finish(Range groups, Range rows, const float* acc, float* tile) const {
    const std::int64_t column = groups.begin * kCsrGroup;
    const std::int64_t columns = std::min(groups.end * kCsrGroup, weight.outputs()) - column;
    const int stride = padded(rows);
    for (std::int64_t r = rows.begin; r < rows.end; r += kLanes) {
      const float* sums = acc;  // of a single row they stand as the epilogue wants them
      if (stride > 1) {
        table.transpose_f32({acc + (r - rows.begin), stride, round_up(columns, kLanes), kLanes,
                             tile, kChunkOutputs});
        sums = tile;
      }
      table.epilogue_sums({sums, kChunkOutputs,
                           static_cast<int>(std::min<std::int64_t>(kLanes, rows.end - r)), columns,
                           bias == nullptr ? nullptr : bias + column, activation,
                           call.y + r * call.y_stride + column, call.y_stride, nullptr});
    }
  }

  void compute(Range groups, Range rows, const float* panel, float* acc) const {
    for (std::int64_t g = groups.begin; g < groups.end; g += kChunkGroups) {
      const Range chunk{g, std::min(g + kChunkGroups, groups.end)};
      accumulate(chunk, panel, padded(rows), acc);
      finish(chunk, rows, acc, acc + kAccFloats);
    }
  }

  // Work is the sequence of (panel, group); part `index` of `parts` begins where the steps so far
  // reach its share.
  std::int64_t work_before(std::int64_t group) const {
    return weight.steps_before(group) + group * kGroupSteps;
  }
  std::int64_t begin_of(std::int64_t index, std::int64_t parts) const {
    const std::int64_t groups = weight.groups(), share = panels * index;
    if (index == parts) return panels * groups;
    const std::int64_t rest = work_before(groups) * (share % parts) / parts;
    std::int64_t low = 0, high = groups;
    while (low < high) {
      const std::int64_t middle = (low + high) / 2;
      work_before(middle) < rest ? low = middle + 1 : high = middle;
    }
    return share / parts * groups + low;
  }
};

// Scratch of one call, kept by the calling thread for the next one.
float* scratch_of(std::int64_t floats) {
  thread_local Buffer<float> scratch;
  return scratch.reserve(floats);
}

void run(const Job& job, int threads) {
  const std::int64_t groups = job.weight.groups(), blocks = job.weight.blocks();
  const std::int64_t panel_floats = job.panel_floats();
  // Fewer panels than threads: all threads pack them together. Else, and where packing costs less
  // than a barrier, each thread packs a panel when it comes to it and finds it in its own L2.
  const bool shared = job.panels < threads && job.call.rows * job.weight.inputs() > kSelfPacked;
  const std::int64_t panel_count = shared ? job.panels : threads;
  float* const panels = scratch_of(checked_mul(panel_floats, panel_count) +
                                   checked_mul(kAccFloats + kTileFloats, threads));
  float* const sums = panels + panel_floats * panel_count;
  parallel(threads, [&](int thread, int count) {
    if (shared) {
      const Range packing = part_of(job.panels * blocks, thread, count);
      for (std::int64_t i = packing.begin; i < packing.end; ++i) {
        job.pack(job.rows_of(i / blocks), i % blocks, panels + i / blocks * panel_floats);
      }
      if (count > 1) barrier();
    }
    float* const acc = sums + thread * (kAccFloats + kTileFloats);
    const std::int64_t last = job.begin_of(thread + 1, count);
    for (std::int64_t i = job.begin_of(thread, count); i < last;) {
      const std::int64_t p = i / groups, end = std::min(last, (p + 1) * groups);
      const Range rows = job.rows_of(p);
      float* const panel = panels + (shared ? p : thread) * panel_floats;
      for (std::int64_t b = 0; !shared && b < blocks; ++b) job.pack(rows, b, panel);
      job.compute({i - p * groups, end - p * groups}, rows, panel, acc);
      i = end;
    }
  });
}

}  // namespace

LinearCsr::LinearCsr(CsrF32Weight weight, const float* bias, Activation activation)
    : weight_(std::move(weight)), has_bias_(bias != nullptr), activation_(activation) {
  if (has_bias_) bias_ = Buffer<float>::copy_of(bias, outputs());
}

void LinearCsr::forward(const LinearCall& call, const KernelTable* table) const {
  require(call.rows >= 0, "rows: ", call.rows, ", expected at least 0");
  require(call.x_stride >= 0 && call.y_stride >= 0, "row strides: ", call.x_stride, " and ",
          call.y_stride, ", expected at least 0");
  int threads = usable_threads(call.threads);
  if (call.rows == 0 || outputs() == 0) return;

  const std::int64_t vectors = ceil_div(call.rows, kLanes), groups = weight_.groups();
  if (weight_.steps_before(groups) * kCsrLanes < kParallelWork / vectors) threads = 1;
  std::int64_t panels = ceil_div(vectors, kCsrRows / kLanes);
  if (panels * groups < threads) panels = std::min(vectors, ceil_div(threads, groups));
  const std::int64_t most = call.rows == 1 ? 1 : ceil_div(vectors, panels) * kLanes;
  run({weight_, table == nullptr ? kernels() : *table, call, has_bias_ ? bias_.data() : nullptr,
       activation_, panels, most},
      threads);
}

}  // namespace skd
