// Mistakes of what stands between convolutions: residuals, pools, sums.
#include "check/mutants.h"

namespace skd::check {
namespace {

// Residuals: of the output's own zero point, lost, and added after the activation.
template <class Weight, void (*KernelTable::*entry)(const Weight&, const TileS8&)>
void wrong_residual(const Weight& weight, const TileS8& tile) {
  if (tile.requantize == nullptr) return (base.*entry)(weight, tile);
  RequantizeU8 to = *tile.requantize;
  to.residual_zero_point = to.zero_point;
  TileS8 changed = tile;
  changed.requantize = &to;
  (base.*entry)(weight, changed);
}
void no_residual(const EpilogueFp32& job) {
  EpilogueFp32 other = job;
  other.residual = nullptr;
  base.epilogue_fp32(other);
}
void late_residual(const EpilogueSums& job) {
  EpilogueSums other = job;
  other.residual = nullptr;
  base.epilogue_sums(other);
  for (int r = 0; job.residual != nullptr && r < job.row_count; ++r) {
    for (std::int64_t c = 0; c < job.columns; ++c) {
      job.y[r * job.y_stride + c] += job.residual[r * job.residual_stride + c];
    }
  }
}
// The scale's product with the zero point taken off the product: another rounding.
void dequantize_in_two(const std::uint8_t* u, std::int64_t count, float scale,
                       std::int32_t zero_point, float* x) {
  const float zero = static_cast<float>(zero_point) * scale;
  for (std::int64_t i = 0; i < count; ++i) x[i] = static_cast<float>(u[i]) * scale - zero;
}
// Pools: the last row of a window is left out.
template <class T, void (*KernelTable::*entry)(const PoolRun<T>&)>
void short_window_of(const PoolRun<T>& run) {
  PoolRun<T> changed = run;
  if (run.rows > 1) --changed.rows;
  (base.*entry)(changed);
}
// A maximum by comparison alone forgets NaN.
void max_loses_nan(const PoolRun<float>& run) {
  base.max_pool_f32(run);
  for (std::int64_t i = 0; i < run.count; ++i) {
    for (std::int64_t c = 0; c < run.channels; ++c) {
      float& y = run.y[i * run.y_stride + c];
      if (y != y) y = run.x[i * run.step + c];
    }
  }
}
// Whole vectors of the last channels.
void pool_over_read(const PoolRun<std::uint8_t>& run) {
  base.max_pool_u8(run);
  const std::int64_t last = (run.count - 1) * run.step + (run.rows - 1) * run.row_stride +
                            (run.columns - 1) * run.column_stride + run.channels;
  const volatile std::uint8_t* x = run.x;
  if (run.rows * run.columns > 0) static_cast<void>(x[last]);
}
void no_zero_point(const AveragePoolU8& job) {
  AveragePoolU8 other = job;
  other.zero_point = 0;
  base.average_pool_u8(other);
}
// The sum by the divisor first, as a product: another rounding.
void average_by_reciprocal(const PoolRun<float>& run, float divisor) {
  base.average_pool_f32(run, 1.0f);
  for (std::int64_t i = 0; i < run.count; ++i) {
    for (std::int64_t c = 0; c < run.channels; ++c) run.y[i * run.y_stride + c] *= 1.0f / divisor;
  }
}
void add_in_first_scale(const AddU8& job) {
  AddU8 other = job;
  other.b_scale = job.a_scale;
  base.add_u8(other);
}

}  // namespace

const std::vector<Mutant>& image_mutants() {
  using T = KernelTable;
  static const std::vector<Mutant> mutants = {
      {"wrong_residual",
       [](T& t) {
         t.conv_windowed_s8 = wrong_residual<WindowedS8, &T::conv_windowed_s8>;
         t.conv_dense_s8 = wrong_residual<DenseS8, &T::conv_dense_s8>;
       }},
      {"no_residual", [](T& t) { t.epilogue_fp32 = no_residual; }},
      {"late_residual", [](T& t) { t.epilogue_sums = late_residual; }},
      {"dequantize_in_two", [](T& t) { t.dequantize_u8 = dequantize_in_two; }},
      {"short_window_u8",
       [](T& t) { t.max_pool_u8 = short_window_of<std::uint8_t, &T::max_pool_u8>; }},
      {"short_window_f32", [](T& t) { t.max_pool_f32 = short_window_of<float, &T::max_pool_f32>; }},
      {"max_loses_nan", [](T& t) { t.max_pool_f32 = max_loses_nan; }},
      {"pool_over_read", [](T& t) { t.max_pool_u8 = pool_over_read; }},
      {"no_zero_point", [](T& t) { t.average_pool_u8 = no_zero_point; }},
      {"average_by_reciprocal", [](T& t) { t.average_pool_f32 = average_by_reciprocal; }},
      {"add_in_first_scale", [](T& t) { t.add_u8 = add_in_first_scale; }},
  };
  return mutants;
}

}  // namespace skd::check
