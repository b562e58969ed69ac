// The entries of a kernel table that move, round and finish floats, called directly.
#include <algorithm>
#include <cmath>
#include <vector>

#include "check/conv_images.h"
#include "check/data.h"
#include "check/residual.h"
#include "check/runner.h"

namespace skd::check {
namespace {

constexpr Side kSides[] = {Side::end, Side::start};
constexpr std::uint32_t kInfBits = 0x7F800000u, kSign = 0x80000000u;

std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
float float_of(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Bit patterns on which rounding to 16 bits goes wrong.
std::uint32_t pick_bits(Random& random) {
  const std::uint32_t any = static_cast<std::uint32_t>(random.next());
  const std::uint32_t low = any & 0xFFFFu, high = any & 0xFFFF0000u, sign = any & kSign;
  switch (random.in(0, 8)) {
    case 0:
      return high | 0x8000u;  // a tie
    case 1:
      return high | random.pick({0x7FFFu, 0x8001u});
    case 2:
      return sign | kInfBits | std::max(low, 1u);  // NaN in the half that is dropped
    case 3:
      return sign | kInfBits | (any & 0x007FFFFFu);
    case 4:
      return sign | (any & 0x007FFFFFu);  // subnormal
    case 5:
      return sign | 0x007F0000u | low;  // the largest of them, and 2^-126 beside
    case 6:
      return sign | 0x7F7F0000u | low;  // rounds to the largest number or to Inf
    case 7:
      return sign | random.pick({0u, kInfBits, 0x00800000u, 0x3F800000u});
    default:
      return any;
  }
}

std::vector<float> make_vector(const Problem& p) {
  Random random(p.seed);
  std::vector<float> x(size(p.inputs));
  fill_floats(p.floats, random, x.data(), p.inputs);
  if (random.percent(40)) return x;
  for (float& value : x) value = float_of(pick_bits(random));
  return x;
}

void expect_bf16(std::int64_t i, std::uint16_t got, float x) {
  if (std::isnan(x)) {
    const bool quiet = (got & 0x7FC0u) == 0x7FC0u;
    return expect(quiet, "bits[", i, "] = ", got, ", expected a quiet NaN from ", bits_of(x));
  }
  const std::uint32_t expected = bits_of(reference::round_bf16(x)) >> 16;
  expect(got == expected, "bits[", i, "] = ", got, ", expected ", expected, " from ", x);
}

}  // namespace

Coverage run_to_bf16(const Problem& p, const Subject& subject) {
  const std::vector<float> x = make_vector(p);
  Coverage coverage;
  for (const Side side : kSides) {
    subject.memory.start(side);
    const float* input = subject.memory.copy("x", x.data(), p.inputs);
    std::uint16_t* bits = subject.memory.take<std::uint16_t>("bits", p.inputs);
    mark(bits, p.inputs);
    guarded_call(Environment::standard, subject.memory,
                 [&] { subject.table.to_bf16(input, p.inputs, bits); });
    for (std::int64_t i = 0; i < p.inputs; ++i) {
      expect_bf16(i, bits[i], x[size(i)]);
      if (side == Side::end) coverage.count((bits[i] & 0x7FFFu) != 0);
    }
  }
  return coverage;
}

Coverage run_absolute_maximum(const Problem& p, const Subject& subject) {
  const std::vector<float> x = make_vector(p);
  std::uint32_t most = 0;
  for (const float value : x) most = std::max(most, bits_of(value) & ~kSign);
  Coverage coverage;
  for (const Side side : kSides) {
    subject.memory.start(side);
    const float* input = subject.memory.copy("x", x.data(), p.inputs);
    float got = -1;
    guarded_call(p.environment, subject.memory,
                 [&] { got = subject.table.absolute_maximum(input, p.inputs); });
    expect(same(got, float_of(most)), "maximum ", got, ", expected ", float_of(most));
    if (side == Side::end && p.inputs > 0) coverage.count(most != 0);
  }
  return coverage;
}

Coverage run_transpose(const Problem& p, const Subject& subject) {
  Random random(p.seed);
  const std::int64_t from_stride = p.inputs + p.in_gap;
  const std::int64_t filled = (p.rows + kLanes - 1) / kLanes * kLanes;
  const std::int64_t to_stride = filled + p.out_gap;
  std::vector<std::uint32_t> from(size(extent(p.rows, p.inputs, from_stride)));
  for (std::uint32_t& bits : from) bits = static_cast<std::uint32_t>(random.next());

  Coverage coverage;
  for (const Side side : kSides) {
    subject.memory.start(side);
    const std::uint32_t* source =
        subject.memory.copy("from", from.data(), static_cast<std::int64_t>(from.size()));
    std::uint32_t* to =
        subject.memory.take<std::uint32_t>("to", extent(p.inputs, filled, to_stride));
    mark(to, extent(p.inputs, filled, to_stride));
    TransposeF32 job{};
    job.from = reinterpret_cast<const float*>(source);
    job.from_stride = from_stride;
    job.rows = p.rows;
    job.columns = p.inputs;
    job.to = reinterpret_cast<float*>(to);
    job.to_stride = to_stride;
    guarded_call(p.environment, subject.memory, [&] { subject.table.transpose_f32(job); });
    expect_gaps_kept("to", to, p.inputs, filled, to_stride);
    for (std::int64_t c = 0; c < p.inputs; ++c) {
      for (std::int64_t r = 0; r < filled; ++r) {
        const std::uint32_t expected = r < p.rows ? from[size(r * from_stride + c)] : 0;
        const std::uint32_t got = to[c * to_stride + r];
        expect(got == expected, "bits of to[", c, "][", r, "] = ", got, ", expected ", expected);
        if (side == Side::end && r < p.rows) coverage.count(true);
      }
    }
  }
  return coverage;
}

namespace {

struct SumsData {
  std::vector<float> acc, bias, before;  // acc: [rows][stride], columns to a multiple of 16
  std::vector<std::int32_t> places;      // empty unless the problem is ordered
  ResidualData residual;                 // [rows][outputs]
  std::int64_t stride;
};

SumsData make_sums(const Problem& p) {
  Random random(p.seed);
  SumsData data;
  const std::int64_t padded = (p.outputs + kLanes - 1) / kLanes * kLanes;
  data.stride = padded + p.in_gap;
  data.acc.resize(size(extent(p.rows, padded, data.stride)), NAN);
  for (std::int64_t r = 0; r < p.rows; ++r) {
    fill_floats(p.floats, random, data.acc.data() + r * data.stride, p.outputs);
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
      const float acc = data.acc[size(r * data.stride + at)];
      const float biased = p.bias ? acc + data.bias[size(c)] : acc;
      data.before.push_back(data.residual.added(biased, r * p.outputs + c));
    }
  }
  return data;
}

EpilogueSums sums_job(const Problem& p, const SumsData& data, GuardedMemory& memory) {
  EpilogueSums job{};
  job.acc = memory.copy("acc", data.acc.data(), static_cast<std::int64_t>(data.acc.size()));
  job.acc_stride = data.stride;
  job.row_count = static_cast<int>(p.rows);
  job.columns = p.outputs;
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

Coverage run_epilogue_sums(const Problem& p, const Subject& subject) {
  const SumsData data = make_sums(p);
  std::vector<float> scalar;
  if (!subject.is_scalar) {
    subject.memory.start(Side::end);
    const EpilogueSums job = sums_job(p, data, subject.memory);
    kScalarTable.epilogue_sums(job);
    scalar.assign(job.y, job.y + extent(p.rows, p.outputs, job.y_stride));
  }
  Coverage coverage;
  for (const Side side : kSides) {
    subject.memory.start(side);
    const EpilogueSums job = sums_job(p, data, subject.memory);
    guarded_call(p.environment, subject.memory, [&] { subject.table.epilogue_sums(job); });
    expect_gaps_kept("y", job.y, p.rows, p.outputs, job.y_stride);
    for (std::int64_t r = 0; r < p.rows; ++r) {
      for (std::int64_t c = 0; c < p.outputs; ++c) {
        const float before = data.before[size(r * p.outputs + c)];
        const std::int64_t place = r * job.y_stride + c;
        expect_output(r, c, job.y[place], before, p.activation,
                      scalar.empty() ? nullptr : &scalar[size(place)]);
        if (side == Side::end) coverage.count(std::isfinite(before) && before != 0);
      }
    }
  }
  return coverage;
}

}  // namespace skd::check
