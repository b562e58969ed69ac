#include "ops/linear.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "core/check.h"
#include "core/sizes.h"
#include "core/threads.h"
#include "ops/split.h"

namespace skd {
namespace {

constexpr float kSmallestScale = 0x1p-120f;  // so that 1 / scale is finite

void accumulate(const KernelTable& table, const WindowedS8Weight& weight, const TileS8& tile) {
  table.linear_windowed_s8(weight.view(), tile);
}
void accumulate(const KernelTable& table, const DenseS8Weight& weight, const TileS8& tile) {
  table.linear_dense_s8(weight.view(), tile);
}
int preferred_rows(const KernelTable& table, const WindowedS8Weight&) {
  return table.windowed_rows;
}
int preferred_rows(const KernelTable& table, const DenseS8Weight&) { return table.dense_rows; }

// Scratch of one call, kept by the calling thread for the next one.
struct Scratch {
  Buffer<std::uint8_t> u;
  Buffer<float> scales;

  void reserve(std::int64_t bytes, std::int64_t rows) {
    u.reserve(bytes);
    scales.reserve(rows);
  }
};

std::int64_t u_stride_of(std::int64_t inputs) {
  return round_up(std::max<std::int64_t>(inputs, 1), Buffer<char>::kAlignment);
}

template <class Weight>
struct Job {
  const Weight& weight;
  const KernelTable& table;
  const LinearCall& call;
  const ActivationQuant& quant;
  const float* scale;
  const float* bias;  // or null
  Activation activation;

  std::int64_t outputs = weight.outputs(), inputs = weight.inputs(), slices = weight.slices();
  std::int64_t u_stride = u_stride_of(inputs);
  int tile_rows = preferred_rows(table, weight);
  const std::int32_t* places = weight.places();
  // What a kernel can finish from its registers.
  bool simple = activation == Activation::none || activation == Activation::relu;
  float floor = activation == Activation::relu ? 0.0f : -std::numeric_limits<float>::infinity();

  Range share(int thread, int threads) const {
    return slices_of(weight.layout(), places != nullptr, thread, threads);
  }

  void quantize(Range rows, std::uint8_t* u, float* scales) const {
    for (std::int64_t r = rows.begin; r < rows.end; ++r) {
      const float* x = call.x + r * call.x_stride;
      std::uint8_t* to = u + r * u_stride;
      if (quant.dynamic) {
        scales[r] = table.quantize_dynamic_s8(x, inputs, to);
      } else {
        table.quantize_static_u8(x, inputs, 1.0f / quant.scale, quant.zero_point, to);
        scales[r] = quant.scale;
      }
    }
  }

  // The slices of `strip` that a kernel can finish from its registers: all of their outputs exist,
  // and of a weight with an order whole blocks of 64.
  Range whole_of(Range strip) const {
    const std::int64_t unit = places == nullptr ? 1 : kOrderBlock / kLanes;
    const std::int64_t whole = (outputs / kLanes - strip.begin) / unit * unit;
    const std::int64_t some = strip.end - strip.begin;
    return {strip.begin,
            strip.begin + (simple ? std::clamp<std::int64_t>(whole, 0, some / unit * unit) : 0)};
  }

  TileS8 tile_of(Range rows, Range strip, const std::uint8_t* const* pointers,
                 std::int32_t* acc) const {
    const int count = static_cast<int>(rows.end - rows.begin);
    return {pointers,         count,       1,
            inputs,           strip.begin, strip.end - strip.begin,
            quant.zero_point, acc,         kBlockSlices * kLanes};
  }
  const float* bias_at(std::int64_t column) const {
    return bias == nullptr ? nullptr : bias + column;
  }
  const std::int32_t* places_at(std::int64_t column) const {
    return places == nullptr ? nullptr : places + column;
  }
  float* y_at(Range rows, std::int64_t column) const {
    return call.y + rows.begin * call.y_stride + column;
  }

  // Whole slices, from the registers of the kernel.
  void store(Range rows, Range strip, TileS8 tile, const float* scales) const {
    const std::int64_t column = strip.begin * kLanes;
    const StoreFp32 store{scales + rows.begin, scale + column, bias_at(column),  floor,
                          y_at(rows, column),  call.y_stride,  places_at(column)};
    tile.store = &store;
    accumulate(table, weight, tile);
  }

  // Any slices, by way of sums.
  void finish(Range rows, Range strip, const TileS8& tile, const float* scales) const {
    const std::int64_t column = strip.begin * kLanes;
    accumulate(table, weight, tile);
    table.epilogue_fp32({tile.acc, tile.acc_stride, tile.row_count,
                         std::min((strip.end - strip.begin) * kLanes, outputs - column),
                         scales + rows.begin, scale + column, bias_at(column), activation,
                         y_at(rows, column), call.y_stride, places_at(column)});
  }

  // Outputs of `block` for the rows of one tile.
  void compute(Range rows, Range block, const std::uint8_t* u, const float* scales) const {
    alignas(64) std::int32_t acc[kMaxTileRows * kBlockSlices * kLanes];
    const std::uint8_t* pointers[kMaxTileRows];
    for (std::int64_t r = rows.begin; r < rows.end; ++r)
      pointers[r - rows.begin] = u + r * u_stride;
    for_each_strip(block, [&](Range strip) {
      const Range whole = whole_of(strip), rest{whole.end, strip.end};
      if (whole.begin < whole.end) {
        store(rows, whole, tile_of(rows, whole, pointers, acc), scales);
      }
      if (rest.begin < rest.end) finish(rows, rest, tile_of(rows, rest, pointers, acc), scales);
    });
  }

  // All outputs of `part` for `rows`; with `quantize_rows` each tile is quantized when first used.
  void sweep(Range rows, Range part, std::uint8_t* u, float* scales, bool quantize_rows) const {
    const std::int64_t length = block_length(weight.bytes_per_slice());
    for_each_piece({rows, tile_rows}, part, length, [&](Range some, Range block) {
      if (quantize_rows && block.begin == part.begin) quantize(some, u, scales);
      compute(some, block, u, scales);
    });
  }
};

template <class Weight>
void run(const Job<Weight>& job) {
  thread_local Scratch scratch;
  const std::int64_t rows = job.call.rows;
  int threads = usable_threads(job.call.threads);
  const std::int64_t weight_bytes = job.weight.bytes_per_slice() * job.slices;
  // A byte of dense weights takes 4/3 as long as one of windowed ones; quantizing an input or
  // storing an output as long as some 30.
  const bool dense = std::is_same_v<Weight, DenseS8Weight>;
  const std::int64_t work =
      (dense ? weight_bytes + weight_bytes / 3 : weight_bytes) + 32 * (job.inputs + job.outputs);
  if (!worth_threads(work, rows)) threads = 1;

  const bool few_rows = copy_for_each_thread(rows, job.u_stride);
  // Few rows: each thread quantizes them all for itself, which saves the barrier.
  const std::int64_t copies = few_rows ? threads : 1;
  scratch.reserve(checked_mul(checked_mul(rows, job.u_stride), copies), checked_mul(rows, copies));
  std::uint8_t* const u = scratch.u.data();
  float* const scales = scratch.scales.data();

  if (threads > 1 && share_rows(rows, job.tile_rows, threads, job.slices, weight_bytes)) {
    return parallel(threads, [&](int thread, int count) {
      job.sweep(part_of(rows, thread, count), {0, job.slices}, u, scales, true);
    });
  }
  if (threads == 1 || few_rows) {
    return parallel(threads, [&](int thread, int count) {
      job.sweep({0, rows}, job.share(thread, count), u + thread * rows * job.u_stride,
                scales + thread * rows, true);
    });
  }
  parallel(threads, [&](int thread, int count) {
    job.quantize(part_of(rows, thread, count), u, scales);
    barrier();
    job.sweep({0, rows}, job.share(thread, count), u, scales, false);
  });
}

}  // namespace

void check_quantization(ActivationQuant& quant, const float* scale, std::int64_t outputs,
                        std::int64_t largest_weight_sum) {
  if (quant.dynamic) quant.zero_point = 128;
  require(quant.zero_point >= 0 && quant.zero_point <= 255, "input_zero_point: ", quant.zero_point,
          ", expected 0..255");
  require(quant.dynamic || (std::isfinite(quant.scale) && quant.scale >= kSmallestScale),
          "input_scale: ", quant.scale, ", expected a finite number of at least ", kSmallestScale);
  for (std::int64_t o = 0; o < outputs; ++o) {
    require(std::isfinite(scale[o]) && scale[o] > 0.0f, "scale: ", scale[o], " at output ", o,
            ", expected a finite number above 0");
  }
  const std::int64_t largest_input = std::max(quant.zero_point, 255 - quant.zero_point);
  constexpr std::int64_t kLimit = std::numeric_limits<std::int32_t>::max();
  require(largest_weight_sum <= kLimit / largest_input,
          "weight: an output's absolute weights add up to ", largest_weight_sum, ", which times ",
          largest_input, " could overflow the 32-bit sum");
}

LinearS8::LinearS8(Weight weight, const float* scale, const float* bias, ActivationQuant quant,
                   Activation activation)
    : weight_(std::move(weight)),
      has_bias_(bias != nullptr),
      quant_(quant),
      activation_(activation) {
  const std::int64_t sum =
      std::visit([](const auto& w) { return w.largest_weight_sum(); }, weight_);
  check_quantization(quant_, scale, outputs(), sum);
  scale_ = Buffer<float>::copy_of(scale, outputs());
  if (has_bias_) bias_ = Buffer<float>::copy_of(bias, outputs());
}

std::int64_t LinearS8::outputs() const {
  return std::visit([](const auto& w) { return w.outputs(); }, weight_);
}

std::int64_t LinearS8::inputs() const {
  return std::visit([](const auto& w) { return w.inputs(); }, weight_);
}

void LinearS8::forward(const LinearCall& call, const KernelTable* table) const {
  require(call.rows >= 0, "rows: ", call.rows, ", expected at least 0");
  require(call.x_stride >= 0 && call.y_stride >= 0, "row strides: ", call.x_stride, " and ",
          call.y_stride, ", expected at least 0");
  if (call.rows == 0 || outputs() == 0) return;
  const KernelTable& chosen = table == nullptr ? kernels() : *table;
  std::visit(
      [&](const auto& weight) {
        using Chosen = std::decay_t<decltype(weight)>;
        const float* const bias = has_bias_ ? bias_.data() : nullptr;
        const std::int64_t beside = u_stride_of(weight.inputs()) - weight.inputs() + 4;
        for_each_pass(call, rows_of_pass(beside), [&](const LinearCall& pass) {
          run(Job<Chosen>{weight, chosen, pass, quant_, scale_.data(), bias, activation_});
        });
      },
      weight_);
}

}  // namespace skd
