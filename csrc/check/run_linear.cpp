// The whole operation of ops/linear.h, as a caller sees it.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "check/data.h"
#include "check/runner.h"
#include "check/thread_watch.h"
#include "check/windowed_weights.h"
#include "kernels/reference.h"
#include "ops/linear.h"

namespace skd::check {
namespace {

LinearS8::Weight pack(bool windowed, const std::vector<std::int8_t>& dense, std::int64_t outputs,
                      std::int64_t inputs) {
  if (windowed) return WindowedS8Weight::pack(dense.data(), {outputs, inputs, kWindow});
  return DenseS8Weight::pack(dense.data(), outputs, inputs);
}
LinearS8::Weight pack(const Problem& p, const std::vector<std::int8_t>& dense) {
  if (is_windowed(p.op)) return pack_windowed<S8Format>(p, dense.data());
  return DenseS8Weight::pack(dense.data(), p.outputs, p.inputs);
}

struct LinearData {
  std::vector<std::int8_t> dense;
  std::vector<float> x, scale, bias;  // x: [rows][x_stride], NaN in the gaps
  std::int64_t x_stride;
  ActivationQuant quant;
  std::vector<float> before;  // expected, before the activation

  const float* bias_or_null() const { return bias.empty() ? nullptr : bias.data(); }
};

LinearData make_linear(const Problem& p) {
  Random random(p.seed);
  LinearData data;
  data.dense = make_weights(p, random);
  data.x_stride = p.same_rows ? 0 : p.inputs + p.in_gap;
  data.x.assign(size(extent(p.rows, p.inputs, data.x_stride)),
                std::numeric_limits<float>::quiet_NaN());
  const std::int64_t distinct = p.same_rows ? std::min<std::int64_t>(p.rows, 1) : p.rows;
  for (std::int64_t r = 0; r < distinct; ++r) {
    fill_floats(p.floats, random, data.x.data() + r * data.x_stride, p.inputs);
  }
  data.scale.resize(size(p.outputs));
  fill_scales(random, p.inputs, data.scale.data(), p.outputs);
  if (p.bias && p.outputs > 0) data.bias.resize(size(p.outputs));
  for (float& bias : data.bias) bias = random.symmetric();
  data.quant.dynamic = p.dynamic;
  if (!p.dynamic) {
    float largest = 1e-30f;  // of one row; rows may be of very different sizes
    const std::int64_t row = distinct == 0 ? 0 : random.in(0, distinct - 1);
    for (std::int64_t k = 0; k < (distinct == 0 ? 0 : p.inputs); ++k) {
      const float x = data.x[size(row * data.x_stride + k)];
      if (std::isfinite(x)) largest = std::max(largest, std::fabs(x));
    }
    data.quant.scale = largest * random.pick({0.003f, 0.008f, 0.02f, 0.1f});
    if (random.percent(5)) data.quant.scale = random.pick({0x1p-120f, 1.0f, 1e36f});
    data.quant.zero_point = p.zero_point;
  }

  data.before.resize(size(p.rows * p.outputs));
  std::vector<std::uint8_t> u(size(p.inputs));
  std::vector<std::int64_t> acc(size(p.outputs));
  reference::LinearS8Job job{};
  job.x = data.x.data();
  job.rows = p.rows;
  job.x_stride = data.x_stride;
  job.dense = data.dense.data();
  job.outputs = p.outputs;
  job.inputs = p.inputs;
  job.scale = data.scale.data();
  job.bias = data.bias_or_null();
  job.dynamic = p.dynamic;
  job.static_scale = data.quant.scale;
  job.zero_point = p.zero_point;
  job.u = u.data();
  job.acc = acc.data();
  job.y = data.before.data();
  reference::linear_s8(job);
  return data;
}

LinearS8 make_layer(const Problem& p, const LinearData& data) {
  return LinearS8(pack(p, data.dense), data.scale.data(), data.bias_or_null(), data.quant,
                  p.activation);
}

// What the scalar kernels give, on one thread, all rows in one call.
std::vector<float> scalar_result(const Problem& p, const LinearData& data) {
  std::vector<float> y(size(p.rows * p.outputs));
  make_layer(p, data).forward({data.x.data(), p.rows, data.x_stride, y.data(), p.outputs, 1},
                              &kScalarTable);
  return y;
}

}  // namespace

Coverage run_linear(const Problem& p, const Subject& subject) {
  const LinearData data = make_linear(p);
  const bool approximate = p.activation == Activation::gelu || p.activation == Activation::silu;
  std::vector<float> scalar;
  if (approximate && !subject.is_scalar) scalar = scalar_result(p, data);

  Coverage coverage;
  const ThreadWatch watch(subject.table);
  const std::int64_t y_stride = p.outputs + p.out_gap;
  const std::int64_t y_size = extent(p.rows, p.outputs, y_stride);
  for (const Side side : {Side::end, Side::start}) {
    subject.memory.start(side);
    const float* x =
        subject.memory.copy("x", data.x.data(), static_cast<std::int64_t>(data.x.size()));
    float* y = subject.memory.take<float>("y", y_size);
    mark(y, y_size);
    guarded_call(p.environment, subject.memory, [&] {
      const LinearS8 layer = make_layer(p, data);
      const auto forward = [&](std::int64_t begin, std::int64_t end) {
        layer.forward({x + begin * data.x_stride, end - begin, data.x_stride, y + begin * y_stride,
                       y_stride, p.threads},
                      &watch.table());
      };
      if (p.split > 0) forward(0, p.split);
      forward(p.split, p.rows);
    });
    expect_gaps_kept("y", y, p.rows, p.outputs, y_stride);
    for (std::int64_t r = 0; r < p.rows; ++r) {
      for (std::int64_t c = 0; c < p.outputs; ++c) {
        const std::int64_t at = r * p.outputs + c;
        const float before = data.before[size(at)], got = y[r * y_stride + c];
        expect_output(r, c, got, before, p.activation,
                      scalar.empty() ? nullptr : &scalar[size(at)]);
        const float without_input = data.bias.empty() ? 0.0f : data.bias[size(c)];
        if (side == Side::end) coverage.count(std::isfinite(before) && before != without_input);
      }
    }
  }
  coverage.threaded = watch.several();
  return coverage;
}

namespace {

// Throws Failure unless both formats refuse the layer with a message that names `what`.
void expect_refused(const char* what, const std::vector<std::int8_t>& dense, std::int64_t inputs,
                    float scale, const ActivationQuant& quant) {
  const std::int64_t outputs = static_cast<std::int64_t>(dense.size()) / inputs;
  for (const bool windowed : {true, false}) {
    std::string message;
    const std::vector<float> scales(size(outputs), scale);
    try {
      const LinearS8 layer(pack(windowed, dense, outputs, inputs), scales.data(), nullptr, quant,
                           Activation::none);
    } catch (const Error& error) {
      message = error.what();
    }
    expect(message.rfind(what, 0) == 0, what, " was not refused by name; message: '", message, "'");
  }
}

// The sum of |w| times the largest |u - zp| may reach 2^31 - 1 and no more.
void run_sum_limit(const Problem& p, const KernelTable& table, Random& random) {
  const std::int64_t farthest = std::max(p.zero_point, 255 - p.zero_point);
  const std::int64_t limit = std::numeric_limits<std::int32_t>::max() / farthest;  // of sum |w|
  const std::int64_t inputs = limit / 127 + 1;
  const std::int8_t sign = random.percent(50) ? 1 : -1;
  std::vector<std::int8_t> dense(size(inputs), static_cast<std::int8_t>(127 * sign));
  dense.back() = static_cast<std::int8_t>(sign * (limit % 127));
  const ActivationQuant quant{p.dynamic, 1.0f, p.zero_point};
  const float scale = 0x1p-20f;
  const bool low = farthest == p.zero_point;  // u = 0 or 255 is the farthest from zp
  std::vector<float> x(size(inputs), low ? -1000.0f : 1000.0f);
  for (const bool windowed : {true, false}) {
    const LinearS8 layer(pack(windowed, dense, 1, inputs), &scale, nullptr, quant,
                         Activation::none);
    float y = 0;
    layer.forward({x.data(), 1, inputs, &y, 1, 1}, &table);
    const float row_scale = p.dynamic ? 1000.0f * (1.0f / 127.0f) : 1.0f;
    const std::int64_t u = p.dynamic ? (low ? -127 : 127) : (low ? -farthest : farthest);
    const float expected = reference::dequantize(u * sign * limit, row_scale, scale, nullptr);
    expect(same(y, expected), "y = ", y, " at the largest sum, expected ", expected);
  }
  // One more in the last weight is one too many.
  dense.back() = static_cast<std::int8_t>(dense.back() + sign);
  expect_refused("weight", dense, inputs, scale, quant);
}

}  // namespace

Coverage run_refusal(const Problem& p, const Subject& subject) {
  Random random(p.seed);
  const std::vector<std::int8_t> small(12, 3);
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const ActivationQuant good{p.dynamic, 1.0f, p.zero_point};
  for (const float scale : {0.0f, -0.0f, -1.0f, kNan, kInf, -kInf}) {
    expect_refused("scale", small, 4, scale, good);
    if (!p.dynamic) {
      expect_refused("input_scale", small, 4, 1.0f, ActivationQuant{false, scale, p.zero_point});
    }
  }
  for (const std::int32_t zero_point : {-1, 256, INT32_MIN, INT32_MAX}) {
    expect_refused("input_zero_point", small, 4, 1.0f, ActivationQuant{false, 1.0f, zero_point});
  }
  run_sum_limit(p, subject.table, random);
  Coverage coverage;
  coverage.count(true);
  return coverage;
}

}  // namespace skd::check
