// Mistakes of the float kernels.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "check/mutants.h"
#include "kernels/reference.h"

namespace skd::check {
namespace {

std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
void touch(const float* x) {
  const volatile float* outside = x;
  static_cast<void>(*outside);
}

// Where a tile's sums went.
template <class Input>
float* results_of(const FloatTile<Input>& tile) {
  return tile.store == nullptr ? tile.acc : tile.store->y;
}
template <class Input>
std::int64_t stride_of(const FloatTile<Input>& tile) {
  return tile.store == nullptr ? tile.acc_stride : tile.store->y_stride;
}

void over_read_f32(const WindowedF32& weight, const TileF32& tile) {
  base.linear_windowed_f32(weight, tile);
  touch(tile.rows[tile.taps * tile.row_count - 1] + tile.inputs);
}
// Sums that lose their lower half on the way.
void sums_in_bf16(const WindowedBf16& weight, const TileBf16& tile) {
  base.linear_windowed_bf16(weight, tile);
  for (int r = 0; r < tile.row_count; ++r) {
    float* sums = results_of(tile) + r * stride_of(tile);
    for (std::int64_t c = 0; c < kLanes * tile.slice_count; ++c) {
      sums[c] = reference::round_bf16(sums[c]);
    }
  }
}
// A masked lane that is multiplied by zero instead of being left out.
void nan_leaks(const WindowedF32& weight, const TileF32& tile) {
  base.linear_windowed_f32(weight, tile);
  if (tile.row_count > 1) results_of(tile)[stride_of(tile)] += 0.0f * tile.rows[0][0];
}
void truncating_bf16(const float* x, std::int64_t count, std::uint16_t* bits) {
  base.to_bf16(x, count, bits);
  for (std::int64_t i = 0; i < count; ++i) {
    if (std::isnormal(x[i])) bits[i] = static_cast<std::uint16_t>(bits_of(x[i]) >> 16);
  }
}
// The sum of a row depends on how many rows its tile has.
void tile_dependent(const WindowedF32& weight, const TileF32& tile) {
  base.linear_windowed_f32(weight, tile);
  float& first = results_of(tile)[0];
  if (tile.row_count % 2 == 0) first = std::nextafter(first, 0.0f);
}

// The bias after relu, where the kernel itself finishes the output.
void stored_late_bias(const WindowedF32& weight, const TileF32& tile) {
  if (tile.store == nullptr || tile.store->bias == nullptr) {
    return base.linear_windowed_f32(weight, tile);
  }
  StoreSums bare = *tile.store;
  bare.bias = nullptr;
  TileF32 changed = tile;
  changed.store = &bare;
  base.linear_windowed_f32(weight, changed);
  for (int r = 0; r < tile.row_count; ++r) {
    for (std::int64_t c = 0; c < kLanes * tile.slice_count; ++c) {
      bare.y[r * bare.y_stride + c] += tile.store->bias[c];
    }
  }
}

void last_tap_lost(const DepthwiseF32& weight, const TileF32& tile) {
  TileF32 changed = tile;
  changed.taps = std::max(1, tile.taps - 1);
  base.depthwise_f32(weight, changed);
}
// The last step of the first run of four outputs is left out.
void csr_short_run(const CsrF32Run& weight, const CsrF32Tile& tile) {
  const std::int64_t steps = weight.steps[0];
  if (steps == 0) return base.linear_csr_f32(weight, tile);
  std::vector<float> values(weight.values, weight.values + steps * kCsrLanes);
  std::fill(values.end() - kCsrLanes, values.end(), -0.0f);
  std::int64_t rest = 0;
  for (int run = 1; run < kCsrGroup / kCsrLanes; ++run) rest += weight.steps[run] * kCsrLanes;
  values.insert(values.end(), weight.values + steps * kCsrLanes,
                weight.values + steps * kCsrLanes + rest);
  CsrF32Run changed = weight;
  changed.values = values.data();
  base.linear_csr_f32(changed, tile);
}
void csr_restarts(const CsrF32Run& weight, const CsrF32Tile& tile) {
  CsrF32Tile changed = tile;
  changed.first = true;  // every block but the last is forgotten
  base.linear_csr_f32(weight, changed);
}
// The values of one step more than the run has.
void csr_over_read(const CsrF32Run& weight, const CsrF32Tile& tile) {
  base.linear_csr_f32(weight, tile);
  constexpr int kRuns = kCsrGroup / kCsrLanes;
  touch(weight.values +
        kCsrLanes * std::accumulate(weight.steps, weight.steps + kRuns, std::int64_t{0}));
}

void depthwise_over_read_f32(const DepthwiseF32& weight, const TileF32& tile) {
  base.depthwise_f32(weight, tile);
  if ((tile.first_slice + tile.slice_count) * kLanes > tile.inputs) {
    touch(tile.rows[0] + tile.inputs);
  }
}

void sums_over_write(const EpilogueSums& job) {
  base.epilogue_sums(job);
  job.y[(job.row_count - 1) * job.y_stride + job.columns] = 0;
}
void sums_skip_last_column(const EpilogueSums& job) {
  EpilogueSums shorter = job;
  --shorter.columns;
  base.epilogue_sums(shorter);
}
// The bias after the activation.
void sums_late_bias(const EpilogueSums& job) {
  EpilogueSums bare = job;
  bare.bias = nullptr;
  base.epilogue_sums(bare);
  for (int r = 0; job.bias != nullptr && r < job.row_count; ++r) {
    for (std::int64_t c = 0; c < job.columns; ++c) job.y[r * job.y_stride + c] += job.bias[c];
  }
}

// Whole blocks of 16 columns.
void transpose_over_read(const TransposeF32& job) {
  base.transpose_f32(job);
  if (job.rows > 0 && job.columns % kLanes != 0) {
    touch(job.from + (job.rows - 1) * job.from_stride + job.columns);
  }
}
// What stood in the rows that should be filled with zeros stays.
void transpose_no_fill(const TransposeF32& job) {
  for (std::int64_t r = 0; r < job.rows; ++r) {
    for (std::int64_t c = 0; c < job.columns; ++c) {
      std::memcpy(job.to + c * job.to_stride + r, job.from + r * job.from_stride + c, 4);
    }
  }
}

// Half up instead of to even.
void bf16_half_up(const float* x, std::int64_t count, std::uint16_t* bits) {
  base.to_bf16(x, count, bits);
  for (std::int64_t i = 0; i < count; ++i) {
    if (std::isnormal(x[i])) bits[i] = static_cast<std::uint16_t>((bits_of(x[i]) + 0x8000u) >> 16);
  }
}
// Rounding in integers without a look at NaN: the payload carries into the sign.
void bf16_nan_rounded(const float* x, std::int64_t count, std::uint16_t* bits) {
  base.to_bf16(x, count, bits);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint32_t whole = bits_of(x[i]);
    if (!std::isnan(x[i])) continue;
    bits[i] = static_cast<std::uint16_t>((whole + 0x7FFFu + (whole >> 16 & 1u)) >> 16);
  }
}
void bf16_keeps_subnormals(const float* x, std::int64_t count, std::uint16_t* bits) {
  base.to_bf16(x, count, bits);
  for (std::int64_t i = 0; i < count; ++i) {
    if (std::fpclassify(x[i]) == FP_SUBNORMAL) {
      bits[i] = static_cast<std::uint16_t>(bits_of(x[i]) >> 16);
    }
  }
}
// A maximum of floats, which forgets a NaN.
float maximum_loses_nan(const float* x, std::int64_t count) {
  float most = 0;
  for (std::int64_t i = 0; i < count; ++i) most = std::fabs(x[i]) > most ? std::fabs(x[i]) : most;
  return most;
}

}  // namespace

const std::vector<Mutant>& float_mutants() {
  using T = KernelTable;
  static const std::vector<Mutant> mutants = {
      {"over_read_f32", [](T& t) { t.linear_windowed_f32 = over_read_f32; }},
      {"sums_in_bf16", [](T& t) { t.linear_windowed_bf16 = sums_in_bf16; }},
      {"nan_leaks", [](T& t) { t.linear_windowed_f32 = nan_leaks; }},
      {"truncating_bf16", [](T& t) { t.to_bf16 = truncating_bf16; }},
      {"bf16_half_up", [](T& t) { t.to_bf16 = bf16_half_up; }},
      {"bf16_nan_rounded", [](T& t) { t.to_bf16 = bf16_nan_rounded; }},
      {"bf16_keeps_subnormals", [](T& t) { t.to_bf16 = bf16_keeps_subnormals; }},
      {"maximum_loses_nan", [](T& t) { t.absolute_maximum = maximum_loses_nan; }},
      {"tile_dependent", [](T& t) { t.linear_windowed_f32 = tile_dependent; }},
      {"stored_late_bias", [](T& t) { t.linear_windowed_f32 = stored_late_bias; }},
      {"last_tap_lost", [](T& t) { t.depthwise_f32 = last_tap_lost; }},
      {"depthwise_over_read_f32", [](T& t) { t.depthwise_f32 = depthwise_over_read_f32; }},
      {"csr_short_run", [](T& t) { t.linear_csr_f32 = csr_short_run; }},
      {"csr_restarts", [](T& t) { t.linear_csr_f32 = csr_restarts; }},
      {"csr_over_read", [](T& t) { t.linear_csr_f32 = csr_over_read; }},
      {"sums_over_write", [](T& t) { t.epilogue_sums = sums_over_write; }},
      {"sums_skip_last_column", [](T& t) { t.epilogue_sums = sums_skip_last_column; }},
      {"sums_late_bias", [](T& t) { t.epilogue_sums = sums_late_bias; }},
      {"transpose_over_read", [](T& t) { t.transpose_f32 = transpose_over_read; }},
      {"transpose_no_fill", [](T& t) { t.transpose_f32 = transpose_no_fill; }},
  };
  return mutants;
}

}  // namespace skd::check
