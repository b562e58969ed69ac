// Mistakes of the integer kernels, their quantizers, their epilogue and the order of outputs.
#include <algorithm>
#include <cmath>
#include <vector>

#include "check/mutants.h"
#include "kernels/reference.h"
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace skd::check {
namespace {

// Reads a byte that is not the row's.
void touch(const TileS8& tile, std::int64_t offset) {
  const volatile std::uint8_t* row = tile.rows[tile.taps * tile.row_count - 1];
  static_cast<void>(row[offset]);
}

void over_read(const WindowedS8& weight, const TileS8& tile) {
  base.linear_windowed_s8(weight, tile);
  touch(tile, tile.inputs);
}
void under_read(const DenseS8& weight, const TileS8& tile) {
  base.linear_dense_s8(weight, tile);
  touch(tile, -1);
}
// A masked store that is one lane too wide.
void over_write(const EpilogueFp32& job) {
  base.epilogue_fp32(job);
  const std::int64_t last = (job.row_count - 1) * job.y_stride;
  job.y[last + job.columns] = 0;
}

void no_weight_sum(const WindowedS8& weight, const TileS8& tile) {
  TileS8 other = tile;
  other.zero_point = 0;
  base.linear_windowed_s8(weight, other);
}
void no_weight_sum_dense(const DenseS8& weight, const TileS8& tile) {
  TileS8 other = tile;
  other.zero_point = 0;
  base.linear_dense_s8(weight, other);
}

// The last column keeps what stood there.
void skip_last_output(const WindowedS8& weight, const TileS8& tile) {
  const std::int64_t last = tile.slice_count * kLanes - 1;
  std::int32_t kept[kMaxTileRows];
  for (int r = 0; r < tile.row_count; ++r) kept[r] = tile.acc[r * tile.acc_stride + last];
  base.linear_windowed_s8(weight, tile);
  for (int r = 0; r < tile.row_count; ++r) tile.acc[r * tile.acc_stride + last] = kept[r];
}
void skip_last_column(const EpilogueFp32& job) {
  EpilogueFp32 shorter = job;
  --shorter.columns;
  base.epilogue_fp32(shorter);
}

// The windowed sum by the drawing of the format, with a mistake in how it adds or where it reads:
// add(acc, four products), at(position, window length).
template <class Add, class At>
void naive_windowed(const WindowedS8& weight, const TileS8& tile, const Add& add, const At& at) {
  const std::int64_t per_tap = (tile.inputs + kWindow - 1) / kWindow;
  for (int r = 0; r < tile.row_count; ++r) {
    for (std::int64_t s = 0; s < tile.slice_count; ++s) {
      const std::int64_t slice = tile.first_slice + s;
      for (int lane = 0; lane < kLanes; ++lane) {
        std::int64_t step = weight.step_ptr[slice];
        std::int64_t acc =
            -static_cast<std::int64_t>(tile.zero_point) * weight.weight_sums[slice * kLanes + lane];
        for (std::int64_t w = 0; w < tile.taps * per_tap; ++w) {
          const std::uint8_t* row = tile.rows[w / per_tap * tile.row_count + r];
          const std::int64_t begin = w % per_tap * kWindow;
          const std::int64_t length = std::min<std::int64_t>(kWindow, tile.inputs - begin);
          for (int t = 0; t < weight.steps[slice * tile.taps * per_tap + w]; ++t, ++step) {
            std::int32_t products[kDot];
            for (int i = 0; i < kDot; ++i) {
              const std::int64_t entry = (step * kLanes + lane) * kDot + i;
              products[i] = weight.values[entry] * row[begin + at(weight.positions[entry], length)];
            }
            add(acc, products);
          }
        }
        tile.acc[r * tile.acc_stride + s * kLanes + lane] =
            static_cast<std::int32_t>(static_cast<std::uint32_t>(acc));
      }
    }
  }
}
void add_all(std::int64_t& acc, const std::int32_t (&products)[kDot]) {
  for (const std::int32_t product : products) acc += product;
}

// vpmaddubsw adds pairs with saturation to 16 bits.
void saturating_add(const WindowedS8& weight, const TileS8& tile) {
  const auto saturate = [](std::int32_t x) { return std::clamp(x, -32768, 32767); };
  naive_windowed(
      weight, tile,
      [&](std::int64_t& acc, const std::int32_t (&products)[kDot]) {
        acc += saturate(products[0] + products[1]) + saturate(products[2] + products[3]);
      },
      [](std::int64_t position, std::int64_t) { return position; });
}
// vpshufb on 32-byte registers without the blend of the upper half.
void wrong_half(const WindowedS8& weight, const TileS8& tile) {
  naive_windowed(weight, tile, add_all,
                 [](std::int64_t position, std::int64_t) { return position % 32; });
}
// Right but for positions in the last byte of a short window.
void short_window(const WindowedS8& weight, const TileS8& tile) {
  naive_windowed(weight, tile, add_all, [](std::int64_t position, std::int64_t length) {
    return length < kWindow && position == length - 1 && position > 0 ? position - 1 : position;
  });
}
void rows_swapped(const DenseS8& weight, const TileS8& tile) {
  base.linear_dense_s8(weight, tile);
  if (tile.row_count < 2) return;
  for (std::int64_t c = 0; c < tile.slice_count * kLanes; ++c) {
    std::swap(tile.acc[c], tile.acc[tile.acc_stride + c]);
  }
}

void fused_epilogue(const EpilogueFp32& job) {
  if (job.activation != Activation::none || job.bias == nullptr || job.places != nullptr) {
    return base.epilogue_fp32(job);
  }
  for (int r = 0; r < job.row_count; ++r) {
    for (std::int64_t c = 0; c < job.columns; ++c) {
      const float acc = static_cast<float>(job.acc[r * job.acc_stride + c]);
      job.y[r * job.y_stride + c] = std::fma(acc, job.row_scale[r] * job.scale[c], job.bias[c]);
    }
  }
}
// (acc * row_scale) * scale instead of acc * (row_scale * scale).
void other_order(const EpilogueFp32& job) {
  if (job.activation != Activation::none || job.bias != nullptr || job.places != nullptr) {
    return base.epilogue_fp32(job);
  }
  for (int r = 0; r < job.row_count; ++r) {
    for (std::int64_t c = 0; c < job.columns; ++c) {
      const float acc = static_cast<float>(job.acc[r * job.acc_stride + c]);
      job.y[r * job.y_stride + c] = acc * job.row_scale[r] * job.scale[c];
    }
  }
}
// maxps with its operands the wrong way round loses NaN.
void relu_loses_nan(const EpilogueFp32& job) {
  base.epilogue_fp32(job);
  if (job.activation != Activation::relu) return;
  for (int r = 0; r < job.row_count; ++r) {
    float* y = job.y + r * job.y_stride;
    for (std::int64_t c = 0; c < job.columns; ++c) y[c] = y[c] > 0 ? y[c] : 0;
  }
}
void tanh_gelu(const EpilogueFp32& job) {
  if (job.activation != Activation::gelu) return base.epilogue_fp32(job);
  EpilogueFp32 linear = job;
  linear.activation = Activation::none;
  base.epilogue_fp32(linear);
  for (int r = 0; r < job.row_count; ++r) {
    float* y = job.y + r * job.y_stride;
    for (std::int64_t c = 0; c < job.columns; ++c) {
      y[c] = 0.5f * y[c] * (1 + std::tanh(0.7978845608f * (y[c] + 0.044715f * y[c] * y[c] * y[c])));
    }
  }
}

// The outputs' order applied the wrong way round.
template <class Job, void (*KernelTable::*entry)(const Job&)>
void order_inverted(const Job& job) {
  const auto columns = static_cast<std::size_t>(job.places == nullptr ? 0 : job.columns);
  std::vector<std::int32_t> inverse(columns);
  for (std::size_t c = 0; c < columns; ++c) {
    const std::size_t block = c / kOrderBlock * kOrderBlock;
    inverse[block + static_cast<std::size_t>(job.places[c])] = static_cast<std::int32_t>(c - block);
  }
  Job changed = job;
  if (job.places != nullptr) changed.places = inverse.data();
  (base.*entry)(changed);
}

// x / s instead of x * (1 / s).
float dividing_quantizer(const float* x, std::int64_t count, std::uint8_t* u) {
  const float scale = base.quantize_dynamic_s8(x, count, u);
  if (std::isnan(scale) || scale == 1.0f) return scale;
  for (std::int64_t i = 0; i < count; ++i) {
    const float q = std::nearbyint(std::clamp(x[i] / scale, -127.0f, 127.0f));
    u[i] = static_cast<std::uint8_t>(static_cast<int>(q) + 128);
  }
  return scale;
}
// Ties away from zero, as std::round has them.
void half_away(const float* x, std::int64_t count, float inverse_scale, std::int32_t zero_point,
               std::uint8_t* u) {
  const float low = static_cast<float>(-zero_point), high = static_cast<float>(255 - zero_point);
  for (std::int64_t i = 0; i < count; ++i) {
    const float q = x[i] * inverse_scale;
    const float rounded = std::isnan(q) ? 0.0f : std::round(std::clamp(q, low, high));
    u[i] = static_cast<std::uint8_t>(static_cast<int>(rounded) + zero_point);
  }
}
void leaves_flush_on(const EpilogueFp32& job) {
  base.epilogue_fp32(job);
#if defined(__SSE__)
  _mm_setcsr(_mm_getcsr() | 0x8000u);
#endif
}

// Convolutions: the tile is changed on its way to the kernel.
template <class Weight, class Kernel>
void with_rows(const Weight& weight, const TileS8& tile, std::vector<const std::uint8_t*> rows,
               const Kernel& kernel) {
  TileS8 changed = tile;
  changed.rows = rows.data();
  kernel(weight, changed);
}
std::vector<const std::uint8_t*> rows_of(const TileS8& tile) {
  return {tile.rows, tile.rows + tile.taps * tile.row_count};
}

// Padding that holds the byte 0, which stands for -zero_point. The padding row is the one that
// several taps share and that holds zero points alone.
template <class Weight, void (*KernelTable::*entry)(const Weight&, const TileS8&)>
void wrong_border(const Weight& weight, const TileS8& tile) {
  const std::vector<std::uint8_t> zeros(static_cast<std::size_t>(tile.inputs), 0);
  std::vector<const std::uint8_t*> rows = rows_of(tile);
  const std::vector<const std::uint8_t*> real = rows;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::uint8_t* row = real[i];
    const auto shared = static_cast<std::size_t>(std::count(real.begin(), real.end(), row));
    const bool padding = shared > 1 && shared < real.size() &&
                         std::count(row, row + tile.inputs, tile.zero_point) == tile.inputs;
    if (padding) rows[i] = zeros.data();
  }
  with_rows(weight, tile, rows, base.*entry);
}

// Taps in column order; only where a kernel of 3 x 3, 5 x 5 or 7 x 7 may be meant.
template <class Weight, void (*KernelTable::*entry)(const Weight&, const TileS8&)>
void swapped_taps(const Weight& weight, const TileS8& tile) {
  const int side = tile.taps == 9 ? 3 : tile.taps == 25 ? 5 : tile.taps == 49 ? 7 : 1;
  std::vector<const std::uint8_t*> rows = rows_of(tile);
  for (int tap = 0; tap < side * side; ++tap) {
    const int other = tap % side * side + tap / side;
    std::copy_n(tile.rows + other * tile.row_count, tile.row_count,
                rows.begin() + tap * tile.row_count);
  }
  with_rows(weight, tile, rows, base.*entry);
}

// Whole vectors of a short slice: the last channels' load goes on past the row.
void depthwise_over_read(const DepthwiseS8& weight, const TileS8& tile) {
  base.depthwise_s8(weight, tile);
  if ((tile.first_slice + tile.slice_count) * kLanes > tile.inputs) touch(tile, tile.inputs);
}
// The sums of the tile's own first channel instead of the slice's.
void depthwise_first_sums(const DepthwiseS8& weight, const TileS8& tile) {
  base.depthwise_s8(weight, tile);
  if (tile.acc == nullptr) return;
  const std::int64_t channel = tile.first_slice * kLanes;
  for (int r = 0; r < tile.row_count; ++r) {
    tile.acc[r * tile.acc_stride] +=
        tile.zero_point * (weight.weight_sums[channel] - weight.weight_sums[0]);
  }
}

// Convolutions to u8: relu forgotten.
template <class Weight, void (*KernelTable::*entry)(const Weight&, const TileS8&)>
void no_clamp(const Weight& weight, const TileS8& tile) {
  if (tile.requantize == nullptr) return (base.*entry)(weight, tile);
  RequantizeU8 to = *tile.requantize;
  to.low = 0;
  TileS8 changed = tile;
  changed.requantize = &to;
  (base.*entry)(weight, changed);
}
// The first column of the image that a tap sees is taken for padding.
void padding_too_wide(const RowPointersU8& job) {
  std::vector<std::int64_t> inside(job.inside, job.inside + 2 * job.kernel_w);
  for (std::int64_t kx = 0; kx < job.kernel_w; ++kx) ++inside[static_cast<std::size_t>(2 * kx)];
  RowPointersU8 changed = job;
  changed.inside = inside.data();
  base.row_pointers_u8(changed);
}

}  // namespace

const std::vector<Mutant>& s8_mutants() {
  using T = KernelTable;
  static const std::vector<Mutant> mutants = {
      {"over_read", [](T& t) { t.linear_windowed_s8 = over_read; }},
      {"under_read", [](T& t) { t.linear_dense_s8 = under_read; }},
      {"over_write", [](T& t) { t.epilogue_fp32 = over_write; }},
      {"no_weight_sum", [](T& t) { t.linear_windowed_s8 = no_weight_sum; }},
      {"no_weight_sum_dense", [](T& t) { t.linear_dense_s8 = no_weight_sum_dense; }},
      {"skip_last_output", [](T& t) { t.linear_windowed_s8 = skip_last_output; }},
      {"skip_last_column", [](T& t) { t.epilogue_fp32 = skip_last_column; }},
      {"saturating_add", [](T& t) { t.linear_windowed_s8 = saturating_add; }},
      {"wrong_half", [](T& t) { t.linear_windowed_s8 = wrong_half; }},
      {"short_window", [](T& t) { t.linear_windowed_s8 = short_window; }},
      {"rows_swapped", [](T& t) { t.linear_dense_s8 = rows_swapped; }},
      {"fused_epilogue", [](T& t) { t.epilogue_fp32 = fused_epilogue; }},
      {"other_order", [](T& t) { t.epilogue_fp32 = other_order; }},
      {"relu_loses_nan", [](T& t) { t.epilogue_fp32 = relu_loses_nan; }},
      {"tanh_gelu", [](T& t) { t.epilogue_fp32 = tanh_gelu; }},
      {"dividing_quantizer", [](T& t) { t.quantize_dynamic_s8 = dividing_quantizer; }},
      {"half_away", [](T& t) { t.quantize_static_u8 = half_away; }},
      {"leaves_flush_on", [](T& t) { t.epilogue_fp32 = leaves_flush_on; }},
      {"order_inverted",
       [](T& t) {
         t.epilogue_fp32 = order_inverted<EpilogueFp32, &T::epilogue_fp32>;
         t.epilogue_sums = order_inverted<EpilogueSums, &T::epilogue_sums>;
       }},
      {"wrong_border",
       [](T& t) {
         t.linear_windowed_s8 = wrong_border<WindowedS8, &T::linear_windowed_s8>;
         t.linear_dense_s8 = wrong_border<DenseS8, &T::linear_dense_s8>;
         t.conv_windowed_s8 = wrong_border<WindowedS8, &T::conv_windowed_s8>;
         t.conv_dense_s8 = wrong_border<DenseS8, &T::conv_dense_s8>;
         t.depthwise_s8 = wrong_border<DepthwiseS8, &T::depthwise_s8>;
       }},
      {"swapped_taps",
       [](T& t) {
         t.linear_windowed_s8 = swapped_taps<WindowedS8, &T::linear_windowed_s8>;
         t.linear_dense_s8 = swapped_taps<DenseS8, &T::linear_dense_s8>;
         t.conv_windowed_s8 = swapped_taps<WindowedS8, &T::conv_windowed_s8>;
         t.conv_dense_s8 = swapped_taps<DenseS8, &T::conv_dense_s8>;
         t.depthwise_s8 = swapped_taps<DepthwiseS8, &T::depthwise_s8>;
       }},
      {"no_clamp",
       [](T& t) {
         t.conv_windowed_s8 = no_clamp<WindowedS8, &T::conv_windowed_s8>;
         t.conv_dense_s8 = no_clamp<DenseS8, &T::conv_dense_s8>;
         t.depthwise_s8 = no_clamp<DepthwiseS8, &T::depthwise_s8>;
       }},
      {"padding_too_wide", [](T& t) { t.row_pointers_u8 = padding_too_wide; }},
      {"depthwise_over_read", [](T& t) { t.depthwise_s8 = depthwise_over_read; }},
      {"depthwise_first_sums", [](T& t) { t.depthwise_s8 = depthwise_first_sums; }},
  };
  return mutants;
}

}  // namespace skd::check
