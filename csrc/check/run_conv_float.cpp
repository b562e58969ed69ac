// The whole fp32 or bf16 convolution of ops/conv2d.h, against a direct convolution in float64. Bits
// must not depend on threads or on how the batch is split.
#include <cmath>
#include <utility>
#include <vector>

#include "check/data.h"
#include "check/residual.h"
#include "check/runner.h"
#include "check/thread_watch.h"
#include "check/windowed_weights.h"

namespace skd::check {
namespace {

using reference::Sum;

struct ConvData {
  std::vector<float> dense;    // [outputs][taps][inputs]
  std::vector<float> x, bias;  // x: [batch][pixels][channels], whatever the layer's layout is
  float out_scale = 1;
  ResidualData residual;
  std::vector<Sum> sums;  // expected [batch][pixels][outputs]

  const float* bias_or_null() const { return bias.empty() ? nullptr : bias.data(); }
};

ConvData make_data(const Problem& p) {
  Random random(p.seed);
  ConvData data;
  const std::int64_t count = input_size(p.images), outputs = output_size(p.images);
  data.dense = make_float_weights(p, random);
  data.x.resize(size(p.rows * count));
  if (p.bias) data.bias.resize(size(p.outputs));
  for (float& bias : data.bias) bias = random.symmetric();
  data.out_scale = random.pick({0.003f, 0.01f, 0.02f, 0.04f});
  data.sums.resize(size(p.rows * outputs));
  data.residual = make_residual(p, random, p.rows * outputs, FloatFill::normal);
  for (std::int64_t n = 0; n < p.rows; ++n) {
    float* x = data.x.data() + n * count;
    fill_floats(p.floats, random, x, count);
    std::vector<float> seen(x, x + count);  // what the kernels get
    for (float& value : seen) value = is_bf16(p.op) ? reference::round_bf16(value) : value;
    Sum* sums = data.sums.data() + n * outputs;
    reference::convolve_f32(conv_of(p.images), seen.data(), data.dense.data(), sums);
    for (std::int64_t i = 0; i < (p.bias ? outputs : 0); ++i) {
      sums[i].add_bias(data.bias[size(i % p.outputs)]);
    }
    for (std::int64_t i = 0; i < (data.residual.empty() ? 0 : outputs); ++i) {
      sums[i].add_bias(data.residual.value(n * outputs + i));
    }
  }
  return data;
}

Conv2dFloat make_layer(const Problem& p, const ConvData& data) {
  const auto layer = [&](Conv2dFloat::Weight weight) {
    return Conv2dFloat(std::move(weight), p.images.geometry, data.bias_or_null(), p.activation);
  };
  if (is_depthwise(p.op)) {
    return layer(DepthwiseF32Weight(taps_first(p, data.dense).data(), p.outputs, p.taps));
  }
  if (is_bf16(p.op)) return layer(pack_floats<Bf16Format>(p, data.dense));
  return layer(pack_floats<F32Format>(p, data.dense));
}

struct Output {
  float* f32;
  std::uint8_t* u8;
};

// Samples begin..end in one call.
void forward(const Problem& p, const ConvData& data, const Conv2dFloat& layer, const float* x,
             const GuardedResidual& residual, Output y, std::int64_t begin, std::int64_t end,
             int threads, const KernelTable& table) {
  const Images& i = p.images;
  const std::int64_t out = begin * output_size(i);
  layer.forward({x + begin * input_size(i), nullptr, i.in, end - begin, i.height, i.width},
                {i.u8_out ? nullptr : y.f32 + out, i.u8_out ? y.u8 + out : nullptr, i.out,
                 data.out_scale, i.out_zero_point, residual.from(out)},
                threads, &table);
}

// One requantized output: as many integers from the exact one as the bound of the sum allows.
void expect_byte(const Where& where, int got, const Sum& sum, const Problem& p, float scale) {
  if (sum.tainted || sum.magnitude > 1e30) return;
  const double exact = reference::activate(p.activation, sum.value);
  const float value = static_cast<float>(exact);
  std::uint8_t expected;
  reference::quantize_static_u8(&value, 1, 1.0f / scale, p.images.out_zero_point, &expected);
  const double bound = 1.5 * reference::sum_bound(sum) + 1e-6 * (1 + std::fabs(exact));
  const double off = std::fabs(static_cast<double>(got) - expected);
  expect(off <= 1 + bound / scale, where, got, ", expected ", int{expected}, " from ", sum.value);
}

// The memory of one output, in fp32 or u8.
struct Result {
  std::vector<float> f32;
  std::vector<std::uint8_t> u8;
};

Result on_one_thread(const Problem& p, const ConvData& data, const std::vector<float>& input,
                     const Subject& subject) {
  const std::int64_t count = static_cast<std::int64_t>(data.sums.size());
  const bool u8 = p.images.u8_out;
  if (p.rows == 0) return {};  // a gap: no data at all (null) is taken for u8 input
  subject.memory.start(Side::end);
  const Output y{subject.memory.take<float>("y", u8 ? 0 : count),
                 subject.memory.take<std::uint8_t>("u8 y", u8 ? count : 0)};
  const GuardedResidual residual(p, data.residual, subject.memory);
  forward(p, data, make_layer(p, data), input.data(), residual, y, 0, p.rows, 1, subject.table);
  return {{y.f32, y.f32 + (u8 ? 0 : count)}, {y.u8, y.u8 + (u8 ? count : 0)}};
}

void expect_element(const Problem& p, const ConvData& data, std::int64_t i, Output y,
                    const Result& alone) {
  const Where where = where_of(p, i);
  const std::int64_t at = output_at(p, where);
  if (p.images.u8_out) {
    expect_byte(where, y.u8[at], data.sums[size(i)], p, data.out_scale);
    expect(y.u8[at] == alone.u8[size(at)], where, int{y.u8[at]}, ", but another on one thread");
  } else {
    expect_float(i / p.outputs, where.output, y.f32[at], data.sums[size(i)], p.activation);
    expect(same(y.f32[at], alone.f32[size(at)]), where, y.f32[at], ", but ", alone.f32[size(at)],
           " on one thread in one call");
  }
}

}  // namespace

Coverage run_conv_float(const Problem& p, const Subject& subject) {
  const ConvData data = make_data(p);
  const std::vector<float> input = in_layout(p, data.x);
  const Result alone = on_one_thread(p, data, input, subject);
  Coverage coverage;
  const ThreadWatch watch(subject.table);
  const std::int64_t count = static_cast<std::int64_t>(data.sums.size());
  const bool u8_out = p.images.u8_out;
  for (const Side side : {Side::end, Side::start}) {
    subject.memory.start(side);
    const float* x =
        subject.memory.copy("x", input.data(), static_cast<std::int64_t>(input.size()));
    const GuardedResidual residual(p, data.residual, subject.memory);
    const Output y{subject.memory.take<float>("y", u8_out ? 0 : count),
                   subject.memory.take<std::uint8_t>("u8 y", u8_out ? count : 0)};
    if (!u8_out) mark(y.f32, count);
    if (u8_out) mark(y.u8, count);
    guarded_call(p.environment, subject.memory, [&] {
      const Conv2dFloat layer = make_layer(p, data);
      const auto part = [&](std::int64_t begin, std::int64_t end) {
        forward(p, data, layer, x, residual, y, begin, end, p.threads, watch.table());
      };
      if (p.split > 0) part(0, p.split);
      part(p.split, p.rows);
    });
    for (std::int64_t i = 0; i < count; ++i) {
      expect_element(p, data, i, y, alone);
      const float bias = data.bias.empty() ? 0.0f : data.bias[size(i % p.outputs)];
      if (side == Side::end) coverage.count(is_telling(data.sums[size(i)], bias));
    }
  }
  coverage.threaded = watch.several();
  return coverage;
}

}  // namespace skd::check
