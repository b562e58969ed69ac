// Pooling as ops/pool2d.h does it, against one window at a time.
#include "ops/pool2d.h"

#include <cmath>
#include <vector>

#include "check/conv_images.h"
#include "check/data.h"
#include "check/runner.h"
#include "check/thread_watch.h"

namespace skd::check {
namespace {

struct PoolData {
  std::vector<float> x;          // [batch][pixels][channels], or
  std::vector<std::uint8_t> u8;  // likewise
  U8Scale in, out;
  std::vector<float> expected;  // fp32 outputs [batch][pixels][channels], or
  std::vector<std::uint8_t> bytes;
};

reference::Pool pool_of(const Images& i) {
  const ConvGeometry& g = i.geometry;
  return {i.height,   i.width,      g.in_channels, g.kernel_h, g.kernel_w, g.stride_h,
          g.stride_w, g.dilation_h, g.dilation_w,  g.pad_top,  g.pad_left, i.ceil_mode};
}
bool is_average(const Problem& p) { return p.op == Op::avg_pool_u8 || p.op == Op::avg_pool_f32; }

void expect_element(const Problem& p, std::int64_t i, PoolData& data) {
  const Where where = where_of(p, i);
  const reference::Pool pool = pool_of(p.images);
  const std::int64_t image = where.sample * input_size(p.images);
  const auto divide_by = [&](const reference::PoolSum& sum) {
    const std::int64_t own = p.images.include_pad ? sum.with_padding : sum.inside;
    return static_cast<float>(p.images.divisor > 0 ? p.images.divisor : own);
  };
  if (!p.images.u8_in) {
    const float* x = data.x.data() + image;
    if (!is_average(p)) {
      data.expected.push_back(
          reference::max_pool_f32(pool, x, where.row, where.column, where.output));
      return;
    }
    const reference::PoolSum sum =
        reference::sum_pool_f32(pool, x, where.row, where.column, where.output);
    data.expected.push_back(sum.sum_f32 / divide_by(sum));
    return;
  }
  const std::uint8_t* x = data.u8.data() + image;
  if (!is_average(p)) {
    data.bytes.push_back(reference::max_pool_u8(pool, x, where.row, where.column, where.output));
    return;
  }
  const reference::PoolSum sum =
      reference::sum_pool_u8(pool, x, data.in.zero_point, where.row, where.column, where.output);
  const float scale = data.in.scale * (1.0f / divide_by(sum));
  const float y = static_cast<float>(sum.sum) * scale;
  if (!p.images.u8_out) return data.expected.push_back(y);
  std::uint8_t u;
  reference::quantize_static_u8(&y, 1, 1.0f / data.out.scale, data.out.zero_point, &u);
  data.bytes.push_back(u);
}

PoolData make_data(const Problem& p) {
  Random random(p.seed);
  PoolData data;
  const std::int64_t count = p.rows * input_size(p.images);
  if (p.images.u8_in) {
    data.u8.resize(size(count));
    fill_bytes(p.bytes, random, data.u8.data(), count);
  } else {
    data.x.resize(size(count));
    fill_floats(p.floats, random, data.x.data(), count);
  }
  data.in = {random.percent(5) ? random.pick({0x1p-120f, 3e38f}) : 0.03f, p.zero_point};
  data.out = {random.percent(5) ? random.pick({0x1p-120f, 3e38f}) : 0.021f,
              p.images.out_zero_point};
  for (std::int64_t i = 0; i < p.rows * output_size(p.images); ++i) expect_element(p, i, data);
  return data;
}

}  // namespace

Coverage run_pool(const Problem& p, const Subject& subject) {
  const Images& i = p.images;
  const ConvGeometry& g = i.geometry;
  const PoolData data = make_data(p);
  const std::vector<float> input = in_layout(p, data.x);
  const std::int64_t count = p.rows * output_size(i);
  const PoolGeometry geometry{g.kernel_h,   g.kernel_w, g.stride_h, g.stride_w, g.dilation_h,
                              g.dilation_w, g.pad_top,  g.pad_left, i.ceil_mode};
  Coverage coverage;
  const ThreadWatch watch(subject.table);
  for (const Side side : {Side::end, Side::start}) {
    subject.memory.start(side);
    const float* x =
        subject.memory.copy("x", input.data(), static_cast<std::int64_t>(input.size()));
    const std::uint8_t* u8 =
        subject.memory.copy("u8 x", data.u8.data(), static_cast<std::int64_t>(data.u8.size()));
    float* y = subject.memory.take<float>("y", i.u8_out ? 0 : count);
    std::uint8_t* y8 = subject.memory.take<std::uint8_t>("u8 y", i.u8_out ? count : 0);
    mark(y, i.u8_out ? 0 : count);
    mark(y8, i.u8_out ? count : 0);
    const PoolShape shape{p.rows, p.outputs, i.height, i.width};
    const PoolInput from{i.u8_in ? nullptr : x, i.u8_in ? u8 : nullptr, i.in, data.in};
    const PoolOutput to{i.u8_out ? nullptr : y, i.u8_out ? y8 : nullptr, i.out, data.out};
    guarded_call(p.environment, subject.memory, [&] {
      if (is_average(p)) {
        avg_pool2d(geometry, shape, from, to, {i.include_pad, i.divisor}, p.threads,
                   &watch.table());
      } else {
        max_pool2d(geometry, shape, from, to, p.threads, &watch.table());
      }
    });
    for (std::int64_t k = 0; k < count; ++k) {
      const Where where = where_of(p, k);
      const std::int64_t at = output_at(p, where);
      if (i.u8_out) {
        expect(y8[at] == data.bytes[size(k)], where, int{y8[at]}, ", expected ",
               int{data.bytes[size(k)]});
      } else {
        expect(same(y[at], data.expected[size(k)]), where, y[at], ", expected ",
               data.expected[size(k)]);
      }
      if (side == Side::end) {
        coverage.count(i.u8_out ? data.bytes[size(k)] != i.out_zero_point
                                : std::isfinite(data.expected[size(k)]));
      }
    }
  }
  coverage.threaded = watch.several();
  return coverage;
}

}  // namespace skd::check
