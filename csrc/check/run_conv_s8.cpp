// The whole int8 convolution of ops/conv2d.h, against a direct convolution in 64 bits.
#include <algorithm>
#include <cmath>
#include <vector>

#include "check/conv_images.h"
#include "check/data.h"
#include "check/residual.h"
#include "check/runner.h"
#include "check/thread_watch.h"
#include "check/windowed_weights.h"

namespace skd::check {
namespace {

struct ConvData {
  std::vector<std::int8_t> dense;  // [outputs][taps][inputs]
  std::vector<float> x;            // [batch][pixels][channels], whatever the layer's layout is
  std::vector<std::uint8_t> u8;    // likewise
  std::vector<float> scale, bias;
  ActivationQuant quant;
  float out_scale = 1;
  ResidualData residual;
  std::vector<float> before;  // expected [batch][pixels][outputs], before the activation

  const float* bias_or_null() const { return bias.empty() ? nullptr : bias.data(); }
};

// A static scale for which most of `x` lies within the integers.
float pick_scale(Random& random, const std::vector<float>& x) {
  float largest = 1e-30f;
  for (int i = 0; i < 32 && !x.empty(); ++i) {
    const float some = x[size(random.in(0, static_cast<std::int64_t>(x.size()) - 1))];
    if (std::isfinite(some)) largest = std::max(largest, std::fabs(some));
  }
  return random.percent(3) ? random.pick({0x1p-120f, 1.0f, 1e36f})
                           : largest * random.pick({0.003f, 0.008f, 0.02f});
}

// Fills in what the reference says of one sample.
void expect_sample(const Problem& p, std::int64_t sample, ConvData& data) {
  const reference::Conv conv = conv_of(p.images);
  const std::int64_t count = input_size(p.images), outputs = output_size(p.images);
  std::vector<std::uint8_t> u(size(count));
  std::vector<std::int64_t> acc(size(outputs));
  float scale = data.quant.scale;
  const float* x = data.x.data() + sample * count;
  if (p.images.u8_in) {
    std::copy_n(data.u8.begin() + sample * count, count, u.begin());
  } else if (p.dynamic) {
    scale = reference::quantize_dynamic_s8(x, count, u.data());
  } else {
    reference::quantize_static_u8(x, count, 1.0f / scale, p.zero_point, u.data());
  }
  reference::convolve_s8(conv, u.data(), p.zero_point, data.dense.data(), acc.data());
  for (std::int64_t i = 0; i < outputs; ++i) {
    const std::int64_t o = i % p.outputs;
    const float y = reference::dequantize(acc[size(i)], scale, data.scale[size(o)],
                                          data.bias.empty() ? nullptr : &data.bias[size(o)]);
    data.before[size(sample * outputs + i)] = data.residual.added(y, sample * outputs + i);
  }
}

ConvData make_data(const Problem& p) {
  Random random(p.seed);
  ConvData data;
  const std::int64_t count = input_size(p.images);
  data.dense = make_weights(p, random);
  if (p.images.u8_in) {
    data.u8.resize(size(p.rows * count));
    fill_bytes(p.bytes, random, data.u8.data(), p.rows * count);
  } else {
    data.x.resize(size(p.rows * count));
    for (std::int64_t n = 0; n < p.rows; ++n) {
      fill_floats(p.floats, random, data.x.data() + n * count, count);
    }
  }
  data.scale.resize(size(p.outputs));
  fill_scales(random, p.inputs * p.taps, data.scale.data(), p.outputs);
  if (p.bias) data.bias.resize(size(p.outputs));
  for (float& bias : data.bias) bias = random.symmetric();
  data.quant.dynamic = p.dynamic;
  if (!p.dynamic) {
    data.quant.scale = p.images.u8_in ? 0.025f : pick_scale(random, data.x);
    data.quant.zero_point = p.zero_point;
  }
  data.out_scale = random.pick({0.003f, 0.01f, 0.02f, 0.04f});
  const std::int64_t outputs = p.rows * output_size(p.images);
  data.residual = make_residual(p, random, outputs, p.floats);
  data.before.resize(size(outputs));
  for (std::int64_t n = 0; n < p.rows; ++n) expect_sample(p, n, data);
  return data;
}

Conv2dS8::Weight pack(const Problem& p, const std::vector<std::int8_t>& dense) {
  const std::int64_t groups = p.images.geometry.groups;
  if (p.op == Op::conv_windowed_s8) return pack_windowed<S8Format>(p, dense.data());
  if (p.op == Op::conv_dense_s8) {
    return DenseS8Weight::pack(dense.data(), p.outputs, p.inputs, p.taps, groups);
  }
  return DepthwiseS8Weight(taps_first(p, dense).data(), p.outputs, p.taps);
}

struct Output {
  float* f32;
  std::uint8_t* u8;
};

// Samples begin..end in one call.
void forward(const Problem& p, const ConvData& data, const Conv2dS8& layer, const float* x,
             const std::uint8_t* u8, const GuardedResidual& residual, Output y, std::int64_t begin,
             std::int64_t end, int threads, const KernelTable& table) {
  const Images& i = p.images;
  const std::int64_t in = begin * input_size(i), out = begin * output_size(i);
  layer.forward({i.u8_in ? nullptr : x + in, i.u8_in ? u8 + in : nullptr, i.in, end - begin,
                 i.height, i.width},
                {i.u8_out ? nullptr : y.f32 + out, i.u8_out ? y.u8 + out : nullptr, i.out,
                 data.out_scale, i.out_zero_point, residual.from(out)},
                threads, &table);
}

Conv2dS8 make_layer(const Problem& p, const ConvData& data) {
  return Conv2dS8(pack(p, data.dense), p.images.geometry, data.scale.data(), data.bias_or_null(),
                  data.quant, p.activation);
}

// What the scalar kernels give on one thread: asked where the reference allows a difference.
struct Scalar {
  std::vector<float> f32;
  std::vector<std::uint8_t> u8;

  Scalar(const Problem& p, const ConvData& data, GuardedMemory& memory) {
    f32.resize(p.images.u8_out ? 0 : data.before.size());
    u8.resize(p.images.u8_out ? data.before.size() : 0);
    const std::vector<float> x = in_layout(p, data.x);
    memory.start(Side::end);
    const GuardedResidual residual(p, data.residual, memory);
    forward(p, data, make_layer(p, data), x.data(), data.u8.data(), residual,
            {f32.data(), u8.data()}, 0, p.rows, 1, kScalarTable);
  }
};

// One requantized output. The reference's value, or near it where the activation has a bound.
void expect_byte(const Where& where, int got, float before, const Problem& p, float scale) {
  const double exact = reference::activate(p.activation, before);
  const float value = static_cast<float>(exact);
  std::uint8_t expected;
  reference::quantize_static_u8(&value, 1, 1.0f / scale, p.images.out_zero_point, &expected);
  const double bound = reference::activation_bound(p.activation, exact);
  const bool near = bound > 0 && std::abs(got - expected) <= 1;
  expect(got == expected || near, where, got, ", expected ", int{expected}, " from ", before);
}

}  // namespace

Coverage run_conv_s8(const Problem& p, const Subject& subject) {
  const ConvData data = make_data(p);
  const std::vector<float> input = in_layout(p, data.x);
  const bool approximate = p.activation == Activation::gelu || p.activation == Activation::silu;
  std::vector<Scalar> scalar;
  if (approximate && !subject.is_scalar) scalar.emplace_back(p, data, subject.memory);

  Coverage coverage;
  const ThreadWatch watch(subject.table);
  const std::int64_t count = static_cast<std::int64_t>(data.before.size());
  const bool u8_out = p.images.u8_out;
  for (const Side side : {Side::end, Side::start}) {
    subject.memory.start(side);
    const float* x =
        subject.memory.copy("x", input.data(), static_cast<std::int64_t>(input.size()));
    const std::uint8_t* u8 =
        subject.memory.copy("u8 x", data.u8.data(), static_cast<std::int64_t>(data.u8.size()));
    const GuardedResidual residual(p, data.residual, subject.memory);
    const Output y{subject.memory.take<float>("y", u8_out ? 0 : count),
                   subject.memory.take<std::uint8_t>("u8 y", u8_out ? count : 0)};
    if (!u8_out) mark(y.f32, count);
    if (u8_out) mark(y.u8, count);
    guarded_call(p.environment, subject.memory, [&] {
      const Conv2dS8 layer = make_layer(p, data);
      const auto part = [&](std::int64_t begin, std::int64_t end) {
        forward(p, data, layer, x, u8, residual, y, begin, end, p.threads, watch.table());
      };
      if (p.split > 0) part(0, p.split);
      part(p.split, p.rows);
    });
    for (std::int64_t i = 0; i < count; ++i) {
      const Where where = where_of(p, i);
      const std::int64_t at = output_at(p, where);
      const float before = data.before[size(i)];
      if (u8_out) {
        expect_byte(where, y.u8[at], before, p, data.out_scale);
        expect(scalar.empty() || y.u8[at] == scalar[0].u8[size(at)], where, int{y.u8[at]},
               ", but scalar gives another");
      } else {
        expect_output(i / p.outputs, where.output, y.f32[at], before, p.activation,
                      scalar.empty() ? nullptr : &scalar[0].f32[size(at)]);
      }
      const float without_input = data.bias.empty() ? 0.0f : data.bias[size(where.output)];
      if (side == Side::end) coverage.count(std::isfinite(before) && before != without_input);
    }
  }
  coverage.threaded = watch.several();
  return coverage;
}

}  // namespace skd::check
