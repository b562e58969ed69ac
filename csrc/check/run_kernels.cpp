// The entries of a kernel table, called directly.
#include <algorithm>
#include <cmath>
#include <variant>
#include <vector>

#include "check/data.h"
#include "check/residual.h"
#include "check/runner.h"
#include "check/windowed_weights.h"
#include "formats/dense_s8.h"
#include "formats/windowed_s8.h"
#include "kernels/reference.h"

namespace skd::check {
namespace {

constexpr Side kSides[] = {Side::end, Side::start};

// A weight in either format, and where its arrays lie for a call: guarded copies.
class TileWeight {
 public:
  TileWeight(const Problem& p, const std::vector<std::int8_t>& dense)
      : weight_(p.op == Op::tile_windowed_s8
                    ? Weight(pack_windowed<S8Format>(p, dense.data()))
                    : Weight(DenseS8Weight::pack(dense.data(), p.outputs, p.inputs, p.taps))) {}

  void run(const KernelTable& table, const TileS8& tile, Environment environment,
           GuardedMemory& memory) const {
    if (const auto* windowed = std::get_if<WindowedS8Weight>(&weight_)) {
      const WindowedS8 view = guard(*windowed, memory);
      guarded_call(environment, memory, [&] { table.linear_windowed_s8(view, tile); });
    } else {
      const DenseS8 view = guard(std::get<DenseS8Weight>(weight_), memory);
      guarded_call(environment, memory, [&] { table.linear_dense_s8(view, tile); });
    }
  }

 private:
  using Weight = std::variant<WindowedS8Weight, DenseS8Weight>;

  static WindowedS8 guard(const WindowedS8Weight& weight, GuardedMemory& memory) {
    WindowedS8 view = weight.view();
    const std::int64_t steps = weight.total_steps();
    view.values = memory.copy("values", view.values, steps * kLanes * kDot);
    view.positions = memory.copy("positions", view.positions, steps * kLanes * kDot);
    view.quarters = memory.copy("quarters", view.quarters, steps);
    view.steps = memory.copy("steps", view.steps, weight.slices() * weight.windows());
    view.step_ptr = memory.copy("step_ptr", view.step_ptr, weight.slices() + 1);
    view.weight_sums = memory.copy("weight_sums", view.weight_sums, weight.slices() * kLanes);
    return view;
  }
  static DenseS8 guard(const DenseS8Weight& weight, GuardedMemory& memory) {
    DenseS8 view = weight.view();
    view.panels = memory.copy("panels", view.panels, weight.packed_bytes());
    view.weight_sums = memory.copy("weight_sums", view.weight_sums, weight.slices() * kLanes);
    return view;
  }

  Weight weight_;
};

// The rows of all taps, each on a guard page of its own.
std::vector<const std::uint8_t*> guard_rows(const Problem& p, const std::uint8_t* bytes,
                                            GuardedMemory& memory) {
  std::vector<const std::uint8_t*> rows;
  const std::uint8_t* first = memory.copy("a row of u", bytes, p.inputs);
  for (std::int64_t i = 0; i < p.taps * p.rows; ++i) {
    rows.push_back(
        i == 0 || p.same_rows ? first : memory.copy("a row of u", bytes + i * p.inputs, p.inputs));
  }
  return rows;
}

}  // namespace

Coverage run_quantize(const Problem& p, const Subject& subject) {
  Random random(p.seed);
  std::vector<float> x(size(p.inputs));
  fill_floats(p.floats, random, x.data(), p.inputs);
  const float inverse =
      p.floats == FloatFill::huge ? 1e-36f : random.pick({1.0f, 7.3f, 40.0f, 64.0f});
  const bool dynamic = p.op == Op::quantize_dynamic_s8;
  std::vector<std::uint8_t> expected(size(p.inputs));
  float expected_scale = 0;
  if (dynamic) {
    expected_scale = reference::quantize_dynamic_s8(x.data(), p.inputs, expected.data());
  } else {
    reference::quantize_static_u8(x.data(), p.inputs, inverse, p.zero_point, expected.data());
  }

  Coverage coverage;
  for (std::int64_t i = 0; i < p.inputs; ++i) {
    const bool clamped = !dynamic && std::fabs(x[size(i)] * inverse) > 1;  // zp = 0: to zp itself
    coverage.count(clamped || expected[size(i)] != (dynamic ? 128 : p.zero_point));
  }
  for (const Side side : kSides) {
    subject.memory.start(side);
    const float* input = subject.memory.copy("x", x.data(), p.inputs);
    std::uint8_t* u = subject.memory.take<std::uint8_t>("u", p.inputs);
    mark(u, p.inputs);
    float scale = 0;
    guarded_call(p.environment, subject.memory, [&] {
      if (dynamic) {
        scale = subject.table.quantize_dynamic_s8(input, p.inputs, u);
      } else {
        subject.table.quantize_static_u8(input, p.inputs, inverse, p.zero_point, u);
      }
    });
    expect(same(scale, expected_scale), "scale = ", scale, ", expected ", expected_scale);
    for (std::int64_t i = 0; i < p.inputs; ++i) {
      expect(u[i] == expected[size(i)], "u[", i, "] = ", int{u[i]}, ", expected ",
             int{expected[size(i)]}, " from ", x[size(i)]);
    }
  }
  return coverage;
}

Coverage run_dequantize(const Problem& p, const Subject& subject) {
  Random random(p.seed);
  std::vector<std::uint8_t> bytes(size(p.inputs));
  fill_bytes(p.bytes, random, bytes.data(), p.inputs);
  const float scale = random.pick({1.0f, 0.0173f, 3e-30f, 3e38f});
  Coverage coverage;
  for (const Side side : kSides) {
    subject.memory.start(side);
    const std::uint8_t* u = subject.memory.copy("u", bytes.data(), p.inputs);
    float* x = subject.memory.take<float>("x", p.inputs);
    mark(x, p.inputs);
    guarded_call(p.environment, subject.memory,
                 [&] { subject.table.dequantize_u8(u, p.inputs, scale, p.zero_point, x); });
    for (std::int64_t i = 0; i < p.inputs; ++i) {
      const float expected = reference::dequantize_u8(bytes[size(i)], scale, p.zero_point);
      expect(same(x[i], expected), "x[", i, "] = ", x[i], ", expected ", expected);
      // Small bytes and small zero points agree often.
      if (side == Side::end) coverage.count(true);
    }
  }
  return coverage;
}

Coverage run_tile(const Problem& p, const Subject& subject) {
  Random random(p.seed);
  const std::vector<std::int8_t> dense = make_weights(p, random);
  const std::int64_t row_count = p.taps * p.rows;
  std::vector<std::uint8_t> bytes(size(row_count * p.inputs));
  fill_bytes(p.bytes, random, bytes.data(), row_count * p.inputs);
  std::vector<const std::uint8_t*> rows;
  for (std::int64_t i = 0; i < row_count; ++i) {
    rows.push_back(bytes.data() + (p.same_rows ? 0 : i * p.inputs));
  }
  std::vector<std::int64_t> expected(size(p.rows * p.outputs));
  reference::accumulate(dense.data(), p.outputs, p.inputs, p.taps, rows.data(), p.rows,
                        p.zero_point, expected.data());

  Coverage coverage;
  const TileWeight weight(p, dense);
  const std::int64_t columns = p.slice_count * kLanes, stride = columns + p.out_gap;
  for (const Side side : kSides) {
    subject.memory.start(side);
    const std::vector<const std::uint8_t*> pointers = guard_rows(p, bytes.data(), subject.memory);
    TileS8 tile{};
    tile.rows = subject.memory.copy("the row pointers", pointers.data(), row_count);
    tile.row_count = static_cast<int>(p.rows);
    tile.taps = p.taps;
    tile.inputs = p.inputs;
    tile.first_slice = p.first_slice;
    tile.slice_count = p.slice_count;
    tile.zero_point = p.zero_point;
    tile.acc_stride = stride;
    tile.acc = subject.memory.take<std::int32_t>("acc", extent(p.rows, columns, stride));
    mark(tile.acc, extent(p.rows, columns, stride));
    weight.run(subject.table, tile, p.environment, subject.memory);

    expect_gaps_kept("acc", tile.acc, p.rows, columns, stride);
    for (std::int64_t r = 0; r < p.rows; ++r) {
      for (std::int64_t c = 0; c < columns; ++c) {
        const std::int64_t output = p.first_slice * kLanes + c;
        const bool real = output < p.outputs;  // lanes past the last output sum nothing
        const std::int64_t sum = real ? expected[size(r * p.outputs + output)] : 0;
        expect(tile.acc[r * stride + c] == sum, "acc[", r, "][", c,
               "] = ", tile.acc[r * stride + c], ", expected ", sum);
        if (real && side == Side::end) coverage.count(sum != 0);
      }
    }
  }
  return coverage;
}

namespace {

struct EpilogueData {
  std::vector<std::int32_t> acc;  // [rows][stride], columns to a multiple of 16
  std::vector<float> row_scale, scale, bias, before;
  std::vector<std::int32_t> places;  // empty unless the problem is ordered
  ResidualData residual;             // [rows][outputs]
  std::int64_t stride;
};

EpilogueData make_epilogue(const Problem& p) {
  Random random(p.seed);
  EpilogueData data;
  const std::int64_t padded = (p.outputs + kLanes - 1) / kLanes * kLanes;
  data.stride = padded + p.in_gap;
  data.acc.resize(size(extent(p.rows, padded, data.stride)));
  const std::int64_t largest = random.pick<std::int64_t>({16, 3000, 1 << 20, 0x7fffffff});
  for (std::int32_t& acc : data.acc) {
    acc = static_cast<std::int32_t>(random.in(-largest, largest));
    if (random.percent(2))
      acc = random.pick({INT32_MIN, INT32_MAX, 0, 1 << 24 | 1, -(1 << 24) - 3});
  }
  const float product = random.pick({1.0f, 4.0f, 8.0f, 100.0f}) / static_cast<float>(largest);
  data.row_scale.resize(size(p.rows));
  for (float& scale : data.row_scale) {
    scale = 0.05f * (0.5f + random.unit());
    if (random.percent(8)) scale = random.pick({1.0f, NAN, 1e30f, 1e-30f});
  }
  data.scale.resize(size(p.outputs));
  for (float& scale : data.scale) {
    scale = 20.0f * product * (0.5f + random.unit());
    if (random.percent(2)) scale = random.pick({1.0f, 3e38f, 0x1p-126f});
  }
  if (p.bias) data.bias.resize(size(p.outputs));
  for (float& bias : data.bias) {
    bias = 2.0f * random.symmetric();
    if (random.percent(3)) bias = random.pick({0.0f, -0.0f, 1e30f, -1e30f, -3e38f, INFINITY, NAN});
  }
  if (p.ordered) data.places = places_of(make_order(random, p.outputs, 1), 1);
  data.residual = make_residual(p, random, p.rows * p.outputs, FloatFill::mixed);
  for (std::int64_t r = 0; r < p.rows; ++r) {
    for (std::int64_t c = 0; c < p.outputs; ++c) {
      const std::int64_t at = p.ordered ? c / kOrderBlock * kOrderBlock + data.places[size(c)] : c;
      data.before.push_back(reference::dequantize(data.acc[size(r * data.stride + at)],
                                                  data.row_scale[size(r)], data.scale[size(c)],
                                                  p.bias ? &data.bias[size(c)] : nullptr));
      data.before.back() = data.residual.added(data.before.back(), r * p.outputs + c);
    }
  }
  return data;
}

EpilogueFp32 epilogue_job(const Problem& p, const EpilogueData& data, GuardedMemory& memory) {
  EpilogueFp32 job{};
  job.acc = memory.copy("acc", data.acc.data(), static_cast<std::int64_t>(data.acc.size()));
  job.acc_stride = data.stride;
  job.row_count = static_cast<int>(p.rows);
  job.columns = p.outputs;
  job.row_scale = memory.copy("row_scale", data.row_scale.data(), p.rows);
  job.scale = memory.copy("scale", data.scale.data(), p.outputs);
  job.bias = p.bias ? memory.copy("bias", data.bias.data(), p.outputs) : nullptr;
  job.places = p.ordered ? memory.copy("places", data.places.data(), p.outputs) : nullptr;
  if (!data.residual.empty()) {
    job.residual = memory.copy("residual", data.residual.f32.data(), p.rows * p.outputs);
    job.residual_stride = p.outputs;
  }
  job.activation = p.activation;
  job.y_stride = p.outputs + p.out_gap;
  job.y = memory.take<float>("y", extent(p.rows, p.outputs, job.y_stride));
  mark(job.y, extent(p.rows, p.outputs, job.y_stride));
  return job;
}

}  // namespace

Coverage run_epilogue(const Problem& p, const Subject& subject) {
  const EpilogueData data = make_epilogue(p);
  std::vector<float> scalar;
  if (!subject.is_scalar) {
    subject.memory.start(Side::end);
    const EpilogueFp32 job = epilogue_job(p, data, subject.memory);
    kScalarTable.epilogue_fp32(job);
    scalar.assign(job.y, job.y + extent(p.rows, p.outputs, job.y_stride));
  }
  Coverage coverage;
  for (const Side side : kSides) {
    subject.memory.start(side);
    const EpilogueFp32 job = epilogue_job(p, data, subject.memory);
    guarded_call(p.environment, subject.memory, [&] { subject.table.epilogue_fp32(job); });
    expect_gaps_kept("y", job.y, p.rows, p.outputs, job.y_stride);
    for (std::int64_t r = 0; r < p.rows; ++r) {
      for (std::int64_t c = 0; c < p.outputs; ++c) {
        const float before = data.before[size(r * p.outputs + c)];
        const std::int64_t at = r * job.y_stride + c;
        expect_output(r, c, job.y[at], before, p.activation,
                      scalar.empty() ? nullptr : &scalar[size(at)]);
        if (side == Side::end) coverage.count(std::isfinite(before) && before != 0);
      }
    }
  }
  return coverage;
}

}  // namespace skd::check
