// The int8 convolution of conv2d.h.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/check.h"
#include "core/fpenv.h"
#include "core/sizes.h"
#include "core/threads.h"
#include "ops/conv2d.h"
#include "ops/conv_input.h"
#include "ops/conv_tiles.h"
#include "ops/conv_u8.h"
#include "ops/conv_weight.h"
#include "ops/requantize.h"

namespace skd {
namespace {

// How a format is computed: into sums, and straight to u8.
struct Windowed {
  const KernelTable& table;
  const WindowedS8Weight& weight;

  int rows() const { return table.windowed_rows; }
  int rows_to_u8() const { return table.conv_windowed_rows; }
  void sums(const TileS8& tile) const { table.linear_windowed_s8(weight.view(), tile); }
  void to_u8(const TileS8& tile) const { table.conv_windowed_s8(weight.view(), tile); }
};
struct Dense {
  const KernelTable& table;
  const DenseS8Weight& weight;

  int rows() const { return table.dense_rows; }
  int rows_to_u8() const { return table.dense_rows; }
  void sums(const TileS8& tile) const { table.linear_dense_s8(weight.view(), tile); }
  void to_u8(const TileS8& tile) const { table.conv_dense_s8(weight.view(), tile); }
};
struct Depthwise {
  const KernelTable& table;
  const DepthwiseS8Weight& weight;

  int rows() const { return kMaxTileRows; }
  int rows_to_u8() const { return kMaxTileRows; }
  void sums(const TileS8& tile) const { table.depthwise_s8(weight.view(), tile); }
  void to_u8(const TileS8& tile) const { table.depthwise_s8(weight.view(), tile); }
};
Windowed kernels_of(const KernelTable& t, const WindowedS8Weight& w) { return {t, w}; }
Dense kernels_of(const KernelTable& t, const DenseS8Weight& w) { return {t, w}; }
Depthwise kernels_of(const KernelTable& t, const DepthwiseS8Weight& w) { return {t, w}; }

// Where the kernels expect an output's scale and bias.
std::int64_t place_of(const DepthwiseS8Weight&, std::int64_t output) {
  return DepthwiseS8Weight::place_of(output);
}
template <class Weight>
std::int64_t place_of(const Weight& weight, std::int64_t output) {
  return weight.layout().slice_of(output) * kLanes + weight.layout().lane_of(output);
}

// What ConvWalk needs for integer sums.
template <class Kernels>
struct MathS8 {
  using Input = std::uint8_t;
  using Sum = std::int32_t;

  Kernels kernels;
  int taps;
  std::int64_t inputs;
  std::int32_t zero_point;
  const float* sample_scales;  // [batch]
  const float* scale;
  const float* bias;  // or null
  Activation activation;
  float out_inverse_scale;
  std::int32_t out_zero_point;
  const std::int32_t* places = kernels.weight.places();

  const KernelTable& table() const { return kernels.table; }
  void accumulate(const Input* const* rows, int count, Range slices, Sum* acc,
                  std::int64_t stride) const {
    kernels.sums({rows, count, taps, inputs, slices.begin, slices.end - slices.begin, zero_point,
                  acc, stride});
  }
  void finish(const Sum* acc, std::int64_t stride, std::int64_t sample, int count,
              std::int64_t column, std::int64_t columns, TileRows residual, float* y,
              std::int64_t y_stride) const {
    float scales[kMaxTileRows];
    std::fill_n(scales, count, sample_scales[sample]);
    kernels.table.epilogue_fp32({acc, stride, count, columns, scales, scale + column,
                                 bias == nullptr ? nullptr : bias + column, activation, y, y_stride,
                                 places == nullptr ? nullptr : places + column, residual.data,
                                 residual.stride});
  }
  void quantize(const float* y, std::int64_t count, std::uint8_t* u) const {
    kernels.table.quantize_static_u8(y, count, out_inverse_scale, out_zero_point, u);
  }
};

// The output columns begin..end for which each tap of a kernel row, or its run, lies inside the
// image.
void find_inside(const ConvGeometry& g, std::int64_t width, std::int64_t* inside) {
  if (g.rows) {
    const Range columns = columns_inside(g, width);
    inside[0] = columns.begin;
    inside[1] = columns.end;
    return;
  }
  for (std::int64_t kx = 0; kx < g.kernel_w; ++kx) {
    const std::int64_t offset = kx * g.dilation_w - g.pad_left;
    inside[2 * kx] = offset < 0 ? ceil_div(-offset, g.stride_w) : 0;
    inside[2 * kx + 1] = width > offset ? ceil_div(width - offset, g.stride_w) : 0;
  }
}

// 1 x 1 convolutions without stride and padding see one row of pixels.
RowPointersU8 rows_of(const ConvGeometry& g, const ConvInput& x, const std::uint8_t* outside,
                      const std::int64_t* inside) {
  RowPointersU8 rows{nullptr,
                     outside,
                     x.height,
                     x.width,
                     g.in_channels,
                     g.out_height(x.height),
                     g.out_width(x.width),
                     g.kernel_h,
                     g.rows ? 1 : g.kernel_w,
                     g.stride_h,
                     g.stride_w,
                     g.dilation_h,
                     g.dilation_w,
                     g.pad_top,
                     g.pad_left,
                     inside,
                     0,
                     0,
                     nullptr};
  if (g.is_pointwise()) {
    rows.width = rows.out_width = x.batch * x.height * x.width;
    rows.height = rows.out_height = 1;
  }
  return rows;
}

}  // namespace

Conv2dS8::Conv2dS8(Weight weight, const ConvGeometry& geometry, const float* scale,
                   const float* bias, ActivationQuant quant, Activation activation)
    : weight_(std::move(weight)),
      geometry_(geometry),
      has_bias_(bias != nullptr),
      quant_(quant),
      activation_(activation) {
  geometry_.check();
  std::visit(
      [&](const auto& w) {
        const ConvWeight parts = conv_weight(w, geometry_);
        check_quantization(quant_, scale, geometry_.out_channels, w.largest_weight_sum());
        scale_ = Buffer<float>::copy_of(scale, geometry_.out_channels);
        if (has_bias_) bias_ = Buffer<float>::copy_of(bias, geometry_.out_channels);
        if (quant_.dynamic) return;  // then scales are known in a call only
        const std::int64_t places = round_up(parts.outputs.slices() * kLanes, kOrderBlock);
        placed_scale_ = Buffer<float>::zeros(places);
        placed_bias_ = Buffer<float>::zeros(places);
        double largest_scale = 0, largest_bias = 0;
        const DefaultFloatEnvironment environment;
        for (std::int64_t o = 0; o < geometry_.out_channels; ++o) {
          const std::int64_t place = place_of(w, o);
          placed_scale_[place] = quant_.scale * scale_[o];
          largest_scale = std::max<double>(largest_scale, placed_scale_[place]);
          if (!has_bias_) continue;
          placed_bias_[place] = bias_[o];
          largest_bias = std::isfinite(bias_[o])
                             ? std::max<double>(largest_bias, std::fabs(bias_[o]))
                             : std::numeric_limits<double>::infinity();
        }
        const int reach = std::max(quant_.zero_point, 255 - quant_.zero_point);
        bound_ = static_cast<double>(reach) * static_cast<double>(w.largest_weight_sum()) *
                     largest_scale +
                 largest_bias;
      },
      weight_);
}

bool Conv2dS8::goes_straight(const ConvOutput& y) const {
  const ConvResidual& r = y.residual;
  // The depthwise kernel holds its sums in an order of its own, and no network adds there.
  const bool depthwise = std::holds_alternative<DepthwiseS8Weight>(weight_);
  if (r.f32 != nullptr || (r.u8 != nullptr && depthwise)) return false;
  const double bound = bound_ + (r.u8 != nullptr ? 255.0 * r.scale : 0);
  // The kernels that write u8 know no order of outputs.
  const bool ordered = std::visit([](const auto& w) { return w.places() != nullptr; }, weight_);
  return y.u8 != nullptr && !quant_.dynamic && is_clamp(activation_) && !ordered &&
         fits_registers(bound, y.scale);
}

RequantizeU8 Conv2dS8::requantization(const ConvOutput& y) const {
  RequantizeU8 to{};
  to.scale = placed_scale_.data();
  to.bias = placed_bias_.data();
  to.inverse_scale = 1.0f / y.scale;
  to.zero_point = y.zero_point;
  const ByteClamp clamp = clamp_of(activation_, {y.scale, y.zero_point});
  to.low = clamp.low;
  to.high = clamp.high;
  to.y = y.u8;
  to.y_stride = geometry_.out_channels;
  to.residual = y.residual.u8;
  to.residual_scale = y.residual.scale;
  to.residual_zero_point = y.residual.zero_point;
  return to;
}

void Conv2dS8::forward(const ConvInput& x, const ConvOutput& y, int threads,
                       const KernelTable* table) const {
  const ConvGeometry& g = geometry_;
  check_call(g, x, y);
  require(x.u8 == nullptr || !quant_.dynamic,
          "u8 input: the layer quantizes activations dynamically; expected fp32 input");
  if (x.batch == 0) return;
  const DefaultFloatEnvironment environment;  // for the output scale's reciprocal
  const KernelTable& chosen = table == nullptr ? kernels() : *table;
  thread_local ConvScratch<std::uint8_t> scratch;
  thread_local Buffer<std::int64_t> inside;
  std::visit(
      [&](const auto& w) {
        const auto kernels = kernels_of(chosen, w);
        using Math = MathS8<std::decay_t<decltype(kernels)>>;
        const ConvWeight parts = conv_weight(w, g);
        const std::int64_t pixels = x.height * x.width;
        const int team = threads_for(parts, pixels * x.batch, threads);
        std::uint8_t* rows = x.u8 != nullptr
                                 ? nullptr
                                 : scratch.at_least(scratch.rows, x.batch * pixels * g.in_channels);
        const std::uint8_t* zero_row =
            scratch.padding(g, static_cast<std::uint8_t>(quant_.zero_point));
        float* scales = scratch.at_least(scratch.scales, x.batch);
        std::uint32_t* maxima = scratch.at_least(scratch.maxima, x.batch * team);
        if (x.u8 != nullptr) std::fill_n(scales, x.batch, quant_.scale);
        // Calls part(images, thread, threads) on every thread, with the images in u8.
        const auto on_threads = [&](const auto& part) {
          parallel(team, [&](int thread, int count) {
            if (rows != nullptr) {
              quantize_images(chosen, x, g.in_channels, quant_, thread, count, maxima, scales,
                              rows);
              barrier();
            }
            part(rows != nullptr ? rows : x.u8, thread, count);
          });
        };

        if (goes_straight(y)) {
          // Of the rows that are walked, which for 1 x 1 are not those of the images.
          const RowPointersU8 row_pointers =
              rows_of(g, x, zero_row, scratch.at_least(inside, 2 * g.kernel_w));
          find_inside(g, row_pointers.width, inside.data());
          ConvU8Call call{chosen,
                          g,
                          parts.outputs,
                          parts.inputs,
                          quant_.zero_point,
                          x.batch * g.out_height(x.height) * g.out_width(x.width),
                          kernels.rows_to_u8(),
                          parts.bytes(),
                          row_pointers,
                          requantization(y),
                          std::is_same_v<std::decay_t<decltype(w)>, DepthwiseS8Weight>};
          const std::int64_t count = call.pointer_count();
          const std::uint8_t** pointers = scratch.at_least(scratch.pointers, count * team);
          const std::int64_t size = call.patch_size();
          std::uint8_t* patches = scratch.at_least(scratch.patches, size * team);
          return on_threads([&](const std::uint8_t* images, int thread, int of) {
            call.run(
                images, [&](const TileS8& tile) { kernels.to_u8(tile); }, pointers + thread * count,
                patches + thread * size, thread, of);
          });
        }
        const Math math{kernels,
                        g.taps(),
                        parts.inputs,
                        quant_.zero_point,
                        scales,
                        scale_.data(),
                        has_bias_ ? bias_.data() : nullptr,
                        activation_,
                        y.u8 != nullptr ? 1.0f / y.scale : 1.0f,
                        y.zero_point};
        const ConvWalk<Math> walk(math, g, parts, kernels.rows(), x, y);
        const std::int64_t count = walk.pointer_count();
        const std::uint8_t** pointers = scratch.at_least(scratch.pointers, count * team);
        const std::int64_t size = walk.patch_size();
        std::uint8_t* patches = scratch.at_least(scratch.patches, size * team);
        on_threads([&](const std::uint8_t* images, int thread, int of) {
          walk.run({images, zero_row, patches + thread * size}, pointers + thread * count, thread,
                   of);
        });
      },
      weight_);
}

}  // namespace skd
