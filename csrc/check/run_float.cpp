// Sums in fp32 and bf16: the tile kernels, and the whole Linear of ops/linear_float.h
// and ops/linear_csr.h. Every
// element is held to the bound of docs/numerics.md; a layer's bits must not depend on threads or
// rows.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "check/data.h"
#include "check/runner.h"
#include "check/thread_watch.h"
#include "check/windowed_weights.h"
#include "ops/linear_csr.h"
#include "ops/linear_float.h"

namespace skd::check {
namespace {

using reference::Sum;

// The rows of one output row as the kernel takes them: in bf16, rounded.
struct Rows {
  std::vector<float> x;  // [taps][inputs]
  bool tainted = false;

  void add(const Problem& p, const float* row) {
    for (std::int64_t k = 0; k < p.inputs; ++k) {
      x.push_back(is_bf16(p.op) ? reference::round_bf16(row[k]) : row[k]);
      tainted = tainted || !std::isfinite(x.back());
    }
  }
};

Sum sum_of(const float* w, const Rows& rows) {
  Sum sum;
  sum.tainted = rows.tainted;
  for (std::size_t k = 0; k < rows.x.size(); ++k) {
    if (w[k] != 0) sum.add(w[k], rows.x[k]);
  }
  return sum;
}

template <class Input>
std::vector<Input> to_input(const std::vector<float>& x) {
  std::vector<Input> converted;
  for (const float value : x) {
    if constexpr (sizeof(Input) == 2) {
      converted.push_back(bf16_from_float(value));
    } else {
      converted.push_back(value);
    }
  }
  return converted;
}

// x: [taps][rows][inputs]; expected: [rows][outputs].
template <class Format>
Coverage check_tile(const Problem& p, const Subject& subject, const std::vector<float>& dense,
                    const std::vector<float>& x, const std::vector<Sum>& expected) {
  using Input = typename Format::Value;
  Coverage coverage;
  const auto weight = pack_floats<Format>(p, dense);
  const std::vector<Input> input = to_input<Input>(x);
  const std::int64_t columns = p.slice_count * kLanes, stride = columns + p.out_gap;
  for (const Side side : {Side::end, Side::start}) {
    subject.memory.start(side);
    std::vector<const Input*> rows;
    for (std::int64_t i = 0; i < p.taps * p.rows; ++i) {
      rows.push_back(subject.memory.copy("a row of x", input.data() + i * p.inputs, p.inputs));
    }
    FloatTile<Input> tile{};
    tile.rows = subject.memory.copy("the row pointers", rows.data(), p.taps * p.rows);
    tile.row_count = static_cast<int>(p.rows);
    tile.taps = p.taps;
    tile.inputs = p.inputs;
    tile.first_slice = p.first_slice;
    tile.slice_count = p.slice_count;
    tile.acc_stride = stride;
    tile.acc = subject.memory.take<float>("acc", extent(p.rows, columns, stride));
    mark(tile.acc, extent(p.rows, columns, stride));
    const typename Format::View view = guard_view(weight, subject.memory);
    guarded_call(Environment::standard, subject.memory,
                 [&] { accumulate(subject.table, view, tile); });
    expect_gaps_kept("acc", tile.acc, p.rows, columns, stride);
    for (std::int64_t r = 0; r < p.rows; ++r) {
      for (std::int64_t c = 0; c < columns; ++c) {
        const std::int64_t output = p.first_slice * kLanes + c;
        Sum sum;  // lanes past the last output sum nothing
        if (output < p.outputs) sum = expected[size(r * p.outputs + output)];
        if (output >= p.outputs) sum.tainted = expected[size(r * p.outputs)].tainted;
        expect_float(r, c, tile.acc[r * stride + c], sum, Activation::none);
        if (output < p.outputs && side == Side::end) coverage.count(is_telling(sum, 0));
      }
    }
  }
  return coverage;
}

struct LinearData {
  std::vector<float> dense, x, bias;  // x: [rows][x_stride], NaN in the gaps
  std::int64_t x_stride;
  std::vector<Sum> sums;

  const float* bias_or_null() const { return bias.empty() ? nullptr : bias.data(); }
};

LinearData make_linear(const Problem& p) {
  Random random(p.seed);
  LinearData data;
  data.dense = make_float_weights(p, random);
  data.x_stride = p.same_rows ? 0 : p.inputs + p.in_gap;
  data.x.assign(size(extent(p.rows, p.inputs, data.x_stride)),
                std::numeric_limits<float>::quiet_NaN());
  const std::int64_t distinct = p.same_rows ? std::min<std::int64_t>(p.rows, 1) : p.rows;
  for (std::int64_t r = 0; r < distinct; ++r) {
    fill_floats(p.floats, random, data.x.data() + r * data.x_stride, p.inputs);
  }
  if (p.bias && p.outputs > 0) data.bias.resize(size(p.outputs));
  for (float& bias : data.bias) bias = random.symmetric();
  for (std::int64_t r = 0; r < p.rows; ++r) {
    Rows row;
    row.add(p, data.x.data() + r * data.x_stride);
    for (std::int64_t o = 0; o < p.outputs; ++o) {
      data.sums.push_back(sum_of(data.dense.data() + o * p.inputs, row));
      if (!data.bias.empty()) data.sums.back().add_bias(data.bias[size(o)]);
    }
  }
  return data;
}

LinearFloat make_layer(const Problem& p, const LinearData& data) {
  if (is_bf16(p.op)) {
    return LinearFloat(pack_floats<Bf16Format>(p, data.dense), data.bias_or_null(), p.activation);
  }
  return LinearFloat(pack_floats<F32Format>(p, data.dense), data.bias_or_null(), p.activation);
}

template <class Layer>
Coverage check_layer(const Problem& p, const Subject& subject, const LinearData& data,
                     const Layer& layer) {
  // One thread, one call, usual environment.
  subject.memory.start(Side::end);
  float* single = subject.memory.take<float>("y", p.rows * p.outputs);
  layer.forward({data.x.data(), p.rows, data.x_stride, single, p.outputs, 1}, &subject.table);
  const std::vector<float> alone(single, single + p.rows * p.outputs);
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
        const float got = y[r * y_stride + c];
        expect_float(r, c, got, data.sums[size(at)], p.activation);
        expect(same(got, alone[size(at)]), "y[", r, "][", c, "] = ", got, ", but ", alone[size(at)],
               " on one thread in one call");
        const float bias = data.bias.empty() ? 0.0f : data.bias[size(c)];
        if (side == Side::end) coverage.count(is_telling(data.sums[size(at)], bias));
      }
    }
  }
  coverage.threaded = watch.several();
  return coverage;
}

}  // namespace

Coverage run_tile_float(const Problem& p, const Subject& subject) {
  Random random(p.seed);
  const std::vector<float> dense = make_float_weights(p, random);
  std::vector<float> x(size(p.taps * p.rows * p.inputs));
  for (std::int64_t i = 0; i < p.taps * p.rows; ++i) {
    float* row = x.data() + i * p.inputs;
    fill_floats(p.floats, random, row, p.inputs);
    if (p.same_rows) std::copy_n(x.data(), p.inputs, row);
  }
  std::vector<Sum> expected;
  for (std::int64_t r = 0; r < p.rows; ++r) {
    Rows rows;
    for (int tap = 0; tap < p.taps; ++tap) rows.add(p, x.data() + (tap * p.rows + r) * p.inputs);
    for (std::int64_t o = 0; o < p.outputs; ++o) {
      expected.push_back(sum_of(dense.data() + o * p.taps * p.inputs, rows));
    }
  }
  return is_bf16(p.op) ? check_tile<Bf16Format>(p, subject, dense, x, expected)
                       : check_tile<F32Format>(p, subject, dense, x, expected);
}

Coverage run_linear_float(const Problem& p, const Subject& subject) {
  const LinearData data = make_linear(p);
  if (!is_csr(p.op)) return check_layer(p, subject, data, make_layer(p, data));
  const CsrF32Arrays arrays = pack_csr_f32(data.dense.data(), p.outputs, p.inputs);
  const CsrF32Parts parts{arrays.row_ptr.data(), arrays.columns.data(), arrays.values.data(),
                          static_cast<std::int64_t>(arrays.values.size())};
  auto weight = CsrF32Weight::from_parts(parts, p.outputs, p.inputs);
  const LinearCsr layer(std::move(weight), data.bias_or_null(), p.activation);
  return check_layer(p, subject, data, layer);
}

}  // namespace skd::check
