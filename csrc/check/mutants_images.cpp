// Mistakes of what stands between convolutions: residuals.
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
  };
  return mutants;
}

}  // namespace skd::check
