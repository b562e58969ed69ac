#include "ops/conv2d.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "core/check.h"
#include "core/fpenv.h"
#include "core/sizes.h"
#include "core/threads.h"
#include "ops/conv_tiles.h"

namespace skd {
namespace {

constexpr float kTiny = 0x1p-100f;  // docs/numerics.md: smaller samples are zeros

std::int64_t out_size(std::int64_t size, std::int64_t before, std::int64_t after,
                      std::int64_t kernel, std::int64_t dilation, std::int64_t stride) {
  const std::int64_t room = size + before + after - dilation * (kernel - 1) - 1;
  return room < 0 ? 0 : room / stride + 1;
}

SlicedOutputs outputs_of(const DepthwiseS8Weight& w) { return {w.channels(), 1}; }
SlicedOutputs outputs_of(const DepthwiseF32Weight& w) { return {w.channels(), 1}; }
template <class Weight>
SlicedOutputs outputs_of(const Weight& w) {
  return w.layout();
}

std::int64_t slice_bytes(const DepthwiseS8Weight& w) { return w.taps() * kLanes; }
std::int64_t slice_bytes(const DepthwiseF32Weight& w) { return w.taps() * kLanes * 4; }
template <class Weight>
std::int64_t slice_bytes(const Weight& w) {
  return w.bytes_per_slice();
}

std::int64_t inputs_of(const DepthwiseS8Weight& w) { return w.channels(); }
std::int64_t inputs_of(const DepthwiseF32Weight& w) { return w.channels(); }
template <class Weight>
std::int64_t inputs_of(const Weight& w) {
  return w.inputs();
}

int preferred_rows(const KernelTable& table, const WindowedS8Weight&) {
  return table.windowed_rows;
}
int preferred_rows(const KernelTable& table, const DenseS8Weight&) { return table.dense_rows; }
int preferred_rows(const KernelTable& table, const WindowedF32Weight&) {
  return table.windowed_rows;
}
int preferred_rows(const KernelTable& table, const WindowedBf16Weight&) {
  return table.windowed_rows;
}
template <class Weight>
int preferred_rows(const KernelTable&, const Weight&) {
  return kMaxTileRows;
}

void accumulate(const KernelTable& t, const WindowedS8Weight& w, const TileS8& tile) {
  t.linear_windowed_s8(w.view(), tile);
}
void accumulate(const KernelTable& t, const DenseS8Weight& w, const TileS8& tile) {
  t.linear_dense_s8(w.view(), tile);
}
void accumulate(const KernelTable& t, const DepthwiseS8Weight& w, const TileS8& tile) {
  t.depthwise_s8(w.view(), tile);
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

// What ConvWalk needs for integer sums.
template <class Weight>
struct MathS8 {
  using Input = std::uint8_t;
  using Sum = std::int32_t;

  const KernelTable& table;
  const Weight& weight;
  int taps;
  std::int32_t zero_point;
  const float* sample_scales;  // [batch]
  const float* scale;
  const float* bias;  // or null
  Activation activation;
  float out_inverse_scale;
  std::int32_t out_zero_point;

  void accumulate(const Input* const* rows, int count, Range slices, Sum* acc,
                  std::int64_t stride) const {
    skd::accumulate(table, weight,
                    TileS8{rows, count, taps, inputs_of(weight), slices.begin,
                           slices.end - slices.begin, zero_point, acc, stride});
  }
  void finish(const Sum* acc, std::int64_t stride, std::int64_t sample, int count,
              std::int64_t column, std::int64_t columns, float* y, std::int64_t y_stride) const {
    float scales[kMaxTileRows];
    std::fill_n(scales, count, sample_scales[sample]);
    table.epilogue_fp32({acc, stride, count, columns, scales, scale + column,
                         bias == nullptr ? nullptr : bias + column, activation, y, y_stride,
                         nullptr});
  }
  void quantize(const float* y, std::int64_t count, std::uint8_t* u) const {
    table.quantize_static_u8(y, count, out_inverse_scale, out_zero_point, u);
  }
};

// Likewise for fp32 sums.
template <class Weight>
struct MathFloat {
  using Input =
      std::conditional_t<std::is_same_v<Weight, WindowedBf16Weight>, std::uint16_t, float>;
  using Sum = float;

  const KernelTable& table;
  const Weight& weight;
  int taps;
  const float* bias;  // or null
  Activation activation;
  float out_inverse_scale;
  std::int32_t out_zero_point;

  void accumulate(const Input* const* rows, int count, Range slices, Sum* acc,
                  std::int64_t stride) const {
    skd::accumulate(table, weight,
                    FloatTile<Input>{rows, count, taps, inputs_of(weight), slices.begin,
                                     slices.end - slices.begin, acc, stride});
  }
  void finish(const Sum* acc, std::int64_t stride, std::int64_t, int count, std::int64_t column,
              std::int64_t columns, float* y, std::int64_t y_stride) const {
    table.epilogue_sums({acc, stride, count, columns, bias == nullptr ? nullptr : bias + column,
                         activation, y, y_stride, nullptr});
  }
  void quantize(const float* y, std::int64_t count, std::uint8_t* u) const {
    table.quantize_static_u8(y, count, out_inverse_scale, out_zero_point, u);
  }
};

// Scratch of one call, kept by the calling thread for the next one: the quantized or reordered
// input, a row of padding, row pointers, and per-sample scales with the maxima they come from.
template <class Input>
struct Scratch {
  Buffer<Input> rows, zero_row;
  Buffer<const Input*> pointers;
  Buffer<float> scales;
  Buffer<std::uint32_t> maxima;

  template <class T>
  static T* at_least(Buffer<T>& buffer, std::int64_t size) {
    return buffer.reserve(size);
  }
};

// Quantizes this thread's part of every sample into u8 NHWC; scales[n] is set by each thread that
// uses it (all compute the same value).
void quantize_input(const KernelTable& table, const ConvInput& x, std::int64_t channels,
                    const ActivationQuant& quant, int thread, int threads, std::uint32_t* maxima,
                    float* scales, std::uint8_t* u) {
  const ImageShape shape{x.height * x.width, channels};
  const std::int64_t size = shape.pixels * channels;
  if (quant.dynamic) {
    for (std::int64_t n = 0; n < x.batch; ++n) {
      const Range part = part_of(size, thread, threads);
      maxima[thread * x.batch + n] =
          absolute_maximum_bits(table, x.f32 + n * size, part.begin, part.end);
    }
    barrier();
  }
  for (std::int64_t n = 0; n < x.batch; ++n) {
    const Range part = part_of(shape.pixels, thread, threads);
    float sample_scale = quant.scale;
    if (quant.dynamic) {
      std::uint32_t bits = 0;
      for (int t = 0; t < threads; ++t) bits = std::max(bits, maxima[t * x.batch + n]);
      float maximum;
      std::memcpy(&maximum, &bits, sizeof maximum);
      if (!(maximum >= kTiny && maximum <= std::numeric_limits<float>::max())) {
        std::memset(u + n * size + part.begin * channels, quant.zero_point,
                    static_cast<std::size_t>((part.end - part.begin) * channels));
        if (thread == 0) {
          scales[n] = maximum < kTiny ? 1.0f : std::numeric_limits<float>::quiet_NaN();
        }
        continue;
      }
      sample_scale = maximum * (1.0f / 127.0f);
    }
    if (thread == 0) scales[n] = sample_scale;
    quantize_pixels(table, x.f32 + n * size, x.layout, shape, part.begin, part.end,
                    1.0f / sample_scale, quant.zero_point, u + n * size);
  }
}

void check_call(const ConvGeometry& g, const ConvInput& x, const ConvOutput& y) {
  constexpr std::int64_t kMost = 1LL << 40;  // no sum with padding below overflows
  require(x.batch >= 0 && x.height >= 0 && x.width >= 0 && x.height <= kMost && x.width <= kMost,
          "images: batch ", x.batch, ", height ", x.height, ", width ", x.width,
          "; expected at least 0 and sides of at most 2^40");
  require(x.batch == 0 ||
              ((x.f32 == nullptr) != (x.u8 == nullptr) && (y.f32 == nullptr) != (y.u8 == nullptr)),
          "input and output: expected either fp32 or u8 data");
  require(x.u8 == nullptr || x.layout == Layout::nhwc, "u8 input: expected NHWC");
  require(y.u8 == nullptr || y.layout == Layout::nhwc, "u8 output: expected NHWC");
  const std::int64_t height = g.out_height(x.height), width = g.out_width(x.width);
  require(height >= 1 && width >= 1, "images of ", x.height, " x ", x.width,
          ": the output would be empty");
  checked_mul(checked_mul(checked_mul(x.batch, x.height), x.width), g.in_channels * 4);
  checked_mul(checked_mul(checked_mul(x.batch, height), width), g.out_channels * 4);
  if (y.u8 != nullptr) {
    require(std::isfinite(y.scale) && y.scale >= 0x1p-120f, "output scale: ", y.scale,
            ", expected a finite number of at least 2^-120");
    require(y.zero_point >= 0 && y.zero_point <= 255, "output zero point: ", y.zero_point,
            ", expected 0..255");
  }
}

template <class Weight>
int threads_for(const Weight& weight, std::int64_t pixels, int requested) {
  const int threads = usable_threads(requested);
  const std::int64_t bytes = slice_bytes(weight) * outputs_of(weight).slices();
  return worth_threads(bytes, std::max<std::int64_t>(1, pixels)) ? threads : 1;
}

template <class Weight>
void check_weight(const Weight& weight, const ConvGeometry& g) {
  require(weight.taps() == g.taps() && weight.inputs() * g.groups == g.in_channels &&
              weight.outputs() == g.out_channels && weight.layout().groups == g.groups,
          "weight: ", weight.outputs(), " outputs of ", weight.inputs(), " channels and ",
          weight.taps(), " taps do not fit the convolution");
}
template <class Depthwise>
void check_depthwise(const Depthwise& weight, const ConvGeometry& g) {
  require(weight.taps() == g.taps() && weight.channels() == g.in_channels &&
              g.in_channels == g.out_channels && g.groups == g.in_channels,
          "weight: a depthwise weight of ", weight.channels(), " channels and ", weight.taps(),
          " taps does not fit the convolution");
}
void check_weight(const DepthwiseS8Weight& weight, const ConvGeometry& g) {
  check_depthwise(weight, g);
}
void check_weight(const DepthwiseF32Weight& weight, const ConvGeometry& g) {
  check_depthwise(weight, g);
}

}  // namespace

std::int64_t ConvGeometry::out_height(std::int64_t height) const {
  return out_size(height, pad_top, pad_bottom, kernel_h, dilation_h, stride_h);
}

std::int64_t ConvGeometry::out_width(std::int64_t width) const {
  return out_size(width, pad_left, pad_right, kernel_w, dilation_w, stride_w);
}

void ConvGeometry::check() const {
  constexpr std::int64_t kMost = 1 << 20;  // far past any use, so that no product below overflows
  const auto within = [](const char* what, std::int64_t value, std::int64_t least,
                         std::int64_t most) {
    require(value >= least && value <= most, what, ": ", value, ", expected ", least, "..", most);
  };
  within("groups", groups, 1, kMost);
  within("in_channels", in_channels, 1, kMost);
  within("out_channels", out_channels, 1, kMost);
  require(in_channels % groups == 0 && out_channels % groups == 0, "groups: ", groups,
          " does not divide ", in_channels, " in and ", out_channels, " out channels");
  for (const std::int64_t k : {kernel_h, kernel_w}) within("kernel_size", k, 1, 1024);
  for (const std::int64_t s : {stride_h, stride_w}) within("stride", s, 1, kMost);
  for (const std::int64_t d : {dilation_h, dilation_w}) within("dilation", d, 1, kMost);
  for (const std::int64_t p : {pad_top, pad_bottom, pad_left, pad_right}) {
    within("padding", p, 0, kMost);
  }
}

Conv2dS8::Conv2dS8(Weight weight, const ConvGeometry& geometry, const float* scale,
                   const float* bias, ActivationQuant quant, Activation activation)
    : weight_(std::move(weight)),
      geometry_(geometry),
      has_bias_(bias != nullptr),
      quant_(quant),
      activation_(activation) {
  geometry_.check();
  std::visit([&](const auto& w) { check_weight(w, geometry_); }, weight_);
  const std::int64_t sum =
      std::visit([](const auto& w) { return w.largest_weight_sum(); }, weight_);
  check_quantization(quant_, scale, geometry_.out_channels, sum);
  scale_ = Buffer<float>::copy_of(scale, geometry_.out_channels);
  if (has_bias_) bias_ = Buffer<float>::copy_of(bias, geometry_.out_channels);
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
  thread_local Scratch<std::uint8_t> scratch;
  std::visit(
      [&](const auto& weight) {
        using Math = MathS8<std::decay_t<decltype(weight)>>;
        const std::int64_t pixels = x.height * x.width;
        const int team = threads_for(weight, pixels * x.batch, threads);
        std::uint8_t* rows = x.u8 != nullptr
                                 ? nullptr
                                 : scratch.at_least(scratch.rows, x.batch * pixels * g.in_channels);
        std::uint8_t* zero_row = scratch.at_least(scratch.zero_row, g.in_channels);
        float* scales = scratch.at_least(scratch.scales, x.batch);
        std::uint32_t* maxima = scratch.at_least(scratch.maxima, x.batch * team);
        std::memset(zero_row, quant_.zero_point, static_cast<std::size_t>(g.in_channels));
        const Math math{chosen,
                        weight,
                        g.taps(),
                        quant_.zero_point,
                        scales,
                        scale_.data(),
                        has_bias_ ? bias_.data() : nullptr,
                        activation_,
                        y.u8 != nullptr ? 1.0f / y.scale : 1.0f,
                        y.zero_point};
        const ConvWalk<Math> walk(math, g, outputs_of(weight), inputs_of(weight),
                                  slice_bytes(weight), preferred_rows(chosen, weight), x, y);
        const std::uint8_t** pointers =
            scratch.at_least(scratch.pointers, walk.pointer_count() * team);
        if (x.u8 != nullptr) std::fill_n(scales, x.batch, quant_.scale);
        parallel(team, [&](int thread, int count) {
          if (rows != nullptr) {
            quantize_input(chosen, x, g.in_channels, quant_, thread, count, maxima, scales, rows);
            barrier();
          }
          walk.run({rows != nullptr ? rows : x.u8, zero_row},
                   pointers + thread * walk.pointer_count(), thread, count);
        });
      },
      weight_);
}

Conv2dFloat::Conv2dFloat(Weight weight, const ConvGeometry& geometry, const float* bias,
                         Activation activation)
    : weight_(std::move(weight)),
      geometry_(geometry),
      has_bias_(bias != nullptr),
      activation_(activation) {
  geometry_.check();
  std::visit([&](const auto& w) { check_weight(w, geometry_); }, weight_);
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
        thread_local Scratch<Input> scratch;
        const ImageShape shape{x.height * x.width, g.in_channels};
        const std::int64_t size = shape.pixels * shape.channels;
        const int team = threads_for(weight, shape.pixels * x.batch, threads);
        const bool copies =
            kRounded || (x.layout == Layout::nchw && shape.pixels > 1 && shape.channels > 1);
        Input* rows = copies ? scratch.at_least(scratch.rows, x.batch * size) : nullptr;
        Input* zero_row = scratch.at_least(scratch.zero_row, g.in_channels);
        std::fill_n(zero_row, g.in_channels, Input{0});
        const Math math{chosen,      weight,
                        g.taps(),    has_bias_ ? bias_.data() : nullptr,
                        activation_, y.u8 != nullptr ? 1.0f / y.scale : 1.0f,
                        y.zero_point};
        const ConvWalk<Math> walk(math, g, outputs_of(weight), inputs_of(weight),
                                  slice_bytes(weight), preferred_rows(chosen, weight), x, y);
        const Input** pointers = scratch.at_least(scratch.pointers, walk.pointer_count() * team);
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
          walk.run({nhwc, zero_row}, pointers + thread * walk.pointer_count(), thread, count);
        });
      },
      weight_);
}

}  // namespace skd
