// The fp32 and bf16 convolutions of conv2d.h.
#include <algorithm>
#include <type_traits>

#include "core/check.h"
#include "core/fpenv.h"
#include "core/threads.h"
#include "ops/conv2d.h"
#include "ops/conv_tiles.h"
#include "ops/conv_weight.h"

namespace skd {
namespace {

int preferred_rows(const KernelTable&, const DepthwiseF32Weight&) { return kMaxTileRows; }
template <class Weight>
int preferred_rows(const KernelTable& table, const Weight&) {
  return table.windowed_rows;
}

void accumulate(const KernelTable& t, const WindowedF32Weight& w, const TileF32& tile) {
  t.linear_windowed_f32(w.view(), tile);
}
void accumulate(const KernelTable& t, const WindowedBf16Weight& w, const TileBf16& tile) {
  t.linear_windowed_bf16(w.view(), tile);
}
void accumulate(const KernelTable& t, const DepthwiseF32Weight& w, const TileF32& tile) {
  t.depthwise_f32(w.view(), tile);
}

// What ConvWalk needs for fp32 sums.
template <class Weight>
struct MathFloat {
  using Input =
      std::conditional_t<std::is_same_v<Weight, WindowedBf16Weight>, std::uint16_t, float>;
  using Sum = float;

  const KernelTable& kernel_table;
  const Weight& weight;
  int taps;
  std::int64_t inputs;
  const float* bias;  // or null
  Activation activation;
  float out_inverse_scale;
  std::int32_t out_zero_point;
  const std::int32_t* places = weight.places();

  const KernelTable& table() const { return kernel_table; }
  void accumulate(const Input* const* rows, int count, Range slices, Sum* acc,
                  std::int64_t stride) const {
    skd::accumulate(kernel_table, weight,
                    FloatTile<Input>{rows, count, taps, inputs, slices.begin,
                                     slices.end - slices.begin, acc, stride});
  }
  void finish(const Sum* acc, std::int64_t stride, std::int64_t, int count, std::int64_t column,
              std::int64_t columns, TileRows residual, float* y, std::int64_t y_stride) const {
    kernel_table.epilogue_sums(
        {acc, stride, count, columns, bias == nullptr ? nullptr : bias + column, activation, y,
         y_stride, places == nullptr ? nullptr : places + column, residual.data, residual.stride});
  }
  void quantize(const float* y, std::int64_t count, std::uint8_t* u) const {
    kernel_table.quantize_static_u8(y, count, out_inverse_scale, out_zero_point, u);
  }
};

}  // namespace

Conv2dFloat::Conv2dFloat(Weight weight, const ConvGeometry& geometry, const float* bias,
                         Activation activation)
    : weight_(std::move(weight)),
      geometry_(geometry),
      has_bias_(bias != nullptr),
      activation_(activation) {
  geometry_.check();
  std::visit([&](const auto& w) { conv_weight(w, geometry_); }, weight_);
  if (has_bias_) bias_ = Buffer<float>::copy_of(bias, geometry_.out_channels);
}

void Conv2dFloat::forward(const ConvInput& x, const ConvOutput& y, int threads,
                          const KernelTable* table) const {
  const ConvGeometry& g = geometry_;
  check_call(g, x, y);
  require(x.u8 == nullptr, "u8 input: an fp32 layer expects fp32 input");
  if (x.batch == 0) return;
  const DefaultFloatEnvironment environment;  // for the output scale's reciprocal
  const KernelTable& chosen = table == nullptr ? kernels() : *table;
  std::visit(
      [&](const auto& weight) {
        using Math = MathFloat<std::decay_t<decltype(weight)>>;
        using Input = typename Math::Input;
        constexpr bool kRounded = std::is_same_v<Input, std::uint16_t>;
        thread_local ConvScratch<Input> scratch;
        const ImageShape shape{x.height * x.width, g.in_channels};
        const std::int64_t size = shape.pixels * shape.channels;
        const ConvWeight parts = conv_weight(weight, g);
        const int team = threads_for(parts, shape.pixels * x.batch, threads);
        const bool copies =
            kRounded || (x.layout == Layout::nchw && shape.pixels > 1 && shape.channels > 1);
        Input* rows = copies ? scratch.at_least(scratch.rows, x.batch * size) : nullptr;
        const Input* zero_row = scratch.padding(g, Input{0});
        const Math math{chosen,
                        weight,
                        g.taps(),
                        parts.inputs,
                        has_bias_ ? bias_.data() : nullptr,
                        activation_,
                        y.u8 != nullptr ? 1.0f / y.scale : 1.0f,
                        y.zero_point};
        const ConvWalk<Math> walk(math, g, parts, preferred_rows(chosen, weight), x, y);
        const Input** pointers = scratch.at_least(scratch.pointers, walk.pointer_count() * team);
        const std::int64_t patch_size = walk.patch_size();
        Input* patches = scratch.at_least(scratch.patches, patch_size * team);
        parallel(team, [&](int thread, int count) {
          const Input* nhwc = rows;
          if (copies) {
            const Range part = part_of(shape.pixels, thread, count);
            for (std::int64_t n = 0; n < x.batch; ++n) {
              if constexpr (kRounded) {
                round_pixels(chosen, x.f32 + n * size, x.layout, shape, part.begin, part.end,
                             rows + n * size);
              } else {
                to_nhwc(x.f32 + n * size, shape, part.begin, part.end, rows + n * size);
              }
            }
            barrier();
          } else if constexpr (!kRounded) {
            nhwc = x.f32;
          }
          walk.run({nhwc, zero_row, patches + thread * patch_size},
                   pointers + thread * walk.pointer_count(), thread, count);
        });
      },
      weight_);
}

}  // namespace skd
