#include "ops/linear_float.h"

#include <algorithm>
#include <limits>
#include <type_traits>
#include <utility>

#include "core/check.h"
#include "core/sizes.h"
#include "core/threads.h"
#include "ops/split.h"

namespace skd {
namespace {

void accumulate(const KernelTable& table, const WindowedF32Weight& weight, const TileF32& tile) {
  table.linear_windowed_f32(weight.view(), tile);
}
void accumulate(const KernelTable& table, const WindowedBf16Weight& weight, const TileBf16& tile) {
  table.linear_windowed_bf16(weight.view(), tile);
}

// A step in the bytes of an int8 step that takes as long: those of int8 windows are 128 bytes, of
// floats 72 to 86. One row takes as long as two to four would, because weights come from L2.
constexpr std::int64_t kRowsBoundByBytes = 4;
std::int64_t step_work(const WindowedF32Weight& weight) {
  return weight.window() == 16 ? 128 : 160;
}
std::int64_t step_work(const WindowedBf16Weight&) { return 144; }

// bf16 rows fill whole lines.
std::int64_t scratch_stride_of(std::int64_t inputs) {
  return round_up(std::max<std::int64_t>(inputs, 1), 32);
}

template <class Weight>
struct Job {
  static constexpr bool kRounded = std::is_same_v<Weight, WindowedBf16Weight>;
  using Input = std::conditional_t<kRounded, std::uint16_t, float>;

  const Weight& weight;
  const KernelTable& table;
  const LinearCall& call;
  const float* bias;  // or null
  Activation activation;

  std::int64_t outputs = weight.outputs(), inputs = weight.inputs(), slices = weight.slices();
  const std::int32_t* places = weight.places();
  std::int64_t scratch_stride = scratch_stride_of(inputs);
  // What a kernel can finish from its registers.
  bool simple =
      places == nullptr && (activation == Activation::none || activation == Activation::relu);
  float floor = activation == Activation::relu ? 0.0f : -std::numeric_limits<float>::infinity();

  void round_rows(Range rows, std::uint16_t* scratch) const {
    for (std::int64_t r = rows.begin; r < rows.end; ++r) {
      table.to_bf16(call.x + r * call.x_stride, inputs, scratch + r * scratch_stride);
    }
  }

  const Input* row(std::int64_t r, [[maybe_unused]] const std::uint16_t* scratch) const {
    if constexpr (kRounded) {
      return scratch + r * scratch_stride;
    } else {
      return call.x + r * call.x_stride;
    }
  }

  FloatTile<Input> tile_of(Range rows, Range strip, const Input* const* pointers) const {
    const int count = static_cast<int>(rows.end - rows.begin);
    return {pointers, count, 1, inputs, strip.begin, strip.end - strip.begin, nullptr, 0};
  }
  const float* bias_at(std::int64_t column) const {
    return bias == nullptr ? nullptr : bias + column;
  }
  float* y_at(Range rows, std::int64_t column) const {
    return call.y + rows.begin * call.y_stride + column;
  }

  // Whole slices, from the registers of the kernel.
  void store(Range rows, Range strip, const Input* const* pointers) const {
    const std::int64_t column = strip.begin * kLanes;
    const StoreSums store{bias_at(column), floor, y_at(rows, column), call.y_stride};
    FloatTile<Input> tile = tile_of(rows, strip, pointers);
    tile.store = &store;
    accumulate(table, weight, tile);
  }

  // By way of `acc` [rows of a tile][kBlockSlices * kLanes].
  void finish(Range rows, Range strip, const Input* const* pointers, float* acc) const {
    const std::int64_t column = strip.begin * kLanes;
    FloatTile<Input> tile = tile_of(rows, strip, pointers);
    tile.acc = acc;
    tile.acc_stride = kBlockSlices * kLanes;
    accumulate(table, weight, tile);
    table.epilogue_sums({acc, tile.acc_stride, tile.row_count,
                         std::min(strip.end * kLanes, outputs) - column, bias_at(column),
                         activation, y_at(rows, column), call.y_stride,
                         places == nullptr ? nullptr : places + column});
  }

  // Outputs of `block` for the rows of one tile.
  void compute(Range rows, Range block, const std::uint16_t* scratch) const {
    alignas(64) float acc[kMaxTileRows * kBlockSlices * kLanes];
    const Input* pointers[kMaxTileRows];
    const int count = static_cast<int>(rows.end - rows.begin);
    for (int r = 0; r < count; ++r) pointers[r] = row(rows.begin + r, scratch);
    for_each_strip(block, [&](Range strip) {
      if (!simple) return finish(rows, strip, pointers, acc);
      const Range whole{strip.begin, std::min(strip.end, outputs / kLanes)};
      if (whole.begin < whole.end) store(rows, whole, pointers);
      if (whole.end < strip.end) finish(rows, {whole.end, strip.end}, pointers, acc);
    });
  }

  // As block_length, but down to what a kernel takes at once, two, or to a block with an order of
  // its own: slices so heavy take so long that short lines of output do not matter.
  std::int64_t block_slices() const {
    const std::int64_t fit = kBlockBytes / std::max<std::int64_t>(1, weight.bytes_per_slice());
    if (fit >= kBlockSlices) return fit / kBlockSlices * kBlockSlices;
    const std::int64_t unit = places == nullptr ? 2 : kOrderBlock / kLanes;
    return std::max(unit, fit / unit * unit);
  }

  // All outputs of `part` for `rows`; with `round` each tile is rounded when first used.
  void sweep(Range rows, Range part, std::uint16_t* scratch, [[maybe_unused]] bool round) const {
    const RowTiles tiles{rows, table.windowed_rows};
    for_each_piece(tiles, part, block_slices(), [&](Range some, Range block) {
      if constexpr (kRounded) {
        if (round && block.begin == part.begin) round_rows(some, scratch);
      }
      compute(some, block, scratch);
    });
  }
};

template <class Weight>
void run(const Job<Weight>& job) {
  thread_local Buffer<std::uint16_t> kept;  // scratch of one call, kept for the next one
  const std::int64_t rows = job.call.rows;
  int threads = usable_threads(job.call.threads);
  // Storing an output or rounding an input takes as long as a quarter of an int8 step's lane.
  const std::int64_t work =
      step_work(job.weight) * job.weight.total_steps() + 32 * (job.inputs + job.outputs);
  if (!worth_threads(work, rows, kRowsBoundByBytes)) threads = 1;

  const bool few_rows = copy_for_each_thread(rows, 2 * job.scratch_stride);
  if constexpr (Job<Weight>::kRounded) {
    // Few rows: each thread rounds them all for itself, which saves the barrier.
    const std::int64_t size =
        checked_mul(checked_mul(rows, job.scratch_stride), few_rows ? threads : 1);
    kept.reserve(size);
  }
  std::uint16_t* const scratch = kept.data();

  const std::int64_t weight_bytes = job.weight.bytes_per_slice() * job.slices;
  if (threads > 1 && share_rows(rows, job.table.windowed_rows, threads, job.slices, weight_bytes)) {
    return parallel(threads, [&](int thread, int count) {
      job.sweep(part_of(rows, thread, count), {0, job.slices}, scratch, true);
    });
  }
  parallel(threads, [&](int thread, int count) {
    const Range part = slices_of(job.weight.layout(), job.places != nullptr, thread, count);
    if (count == 1 || few_rows) {
      const bool shared = !Job<Weight>::kRounded || !few_rows;
      std::uint16_t* const own = shared ? scratch : scratch + thread * rows * job.scratch_stride;
      return job.sweep({0, rows}, part, own, true);
    }
    if constexpr (Job<Weight>::kRounded) {
      job.round_rows(part_of(rows, thread, count), scratch);
      barrier();
    }
    job.sweep({0, rows}, part, scratch, false);
  });
}

}  // namespace

LinearFloat::LinearFloat(Weight weight, const float* bias, Activation activation)
    : weight_(std::move(weight)), has_bias_(bias != nullptr), activation_(activation) {
  if (has_bias_) bias_ = Buffer<float>::copy_of(bias, outputs());
}

std::int64_t LinearFloat::outputs() const {
  return std::visit([](const auto& w) { return w.outputs(); }, weight_);
}

std::int64_t LinearFloat::inputs() const {
  return std::visit([](const auto& w) { return w.inputs(); }, weight_);
}

void LinearFloat::forward(const LinearCall& call, const KernelTable* table) const {
  require(call.rows >= 0, "rows: ", call.rows, ", expected at least 0");
  require(call.x_stride >= 0 && call.y_stride >= 0, "row strides: ", call.x_stride, " and ",
          call.y_stride, ", expected at least 0");
  if (call.rows == 0 || outputs() == 0) return;
  const KernelTable& chosen = table == nullptr ? kernels() : *table;
  std::visit(
      [&](const auto& weight) {
        using Work = Job<std::decay_t<decltype(weight)>>;
        const float* const bias = has_bias_ ? bias_.data() : nullptr;
        const std::int64_t padding = 2 * (scratch_stride_of(weight.inputs()) - weight.inputs());
        const std::int64_t rows = Work::kRounded ? rows_of_pass(padding + 1) : call.rows;
        for_each_pass(call, rows, [&](const LinearCall& pass) {
          run(Work{weight, chosen, pass, bias, activation_});
        });
      },
      weight_);
}

}  // namespace skd
