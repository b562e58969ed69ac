#include "check/data.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/reference.h"

namespace skd::check {
namespace {

std::int8_t weight_of(WeightFill fill, Random& random) {
  switch (fill) {
    case WeightFill::any:
      return static_cast<std::int8_t>(random.in(-127, 127));
    case WeightFill::small:
      return static_cast<std::int8_t>(random.pick({-3, -2, -1, 1, 2, 3}));
    case WeightFill::extremes:
      return static_cast<std::int8_t>(random.pick({-127, -127, -1, 0, 1, 127, 127}));
    case WeightFill::all_127:
      return 127;
  }
  return 0;
}

// Keeps exactly n (or all, if fewer) of the inputs begin..end of one output.
void keep_n_of(const Problem& p, Random& random, std::int64_t begin, std::int64_t end, int n,
               std::int8_t* row) {
  std::int64_t wanted = std::min<std::int64_t>(n, end - begin);
  for (std::int64_t k = begin; k < end; ++k) {
    if (random.in(0, end - k - 1) >= wanted) continue;  // selection sampling: Knuth 3.4.2 S
    row[k] = weight_of(p.weights, random);
    --wanted;
  }
}

// One output's weights of one tap.
void fill_tap(const Problem& p, Random& random, std::int64_t output, std::int8_t* row) {
  const auto keep_percent = [&](int percent) {
    for (std::int64_t k = 0; k < p.inputs; ++k) {
      if (random.percent(percent)) row[k] = weight_of(p.weights, random);
    }
  };
  const auto keep_part = [&](std::int64_t part_size, std::int64_t part) {
    part %= std::max<std::int64_t>(1, (p.inputs + part_size - 1) / part_size);
    for (std::int64_t k = 0; k < p.inputs; ++k) {
      const bool inside = k % kWindow / part_size == part;
      if (inside && random.percent(60)) row[k] = weight_of(p.weights, random);
    }
  };
  const auto keep_groups = [&](std::int64_t group) {
    for (std::int64_t k = 0; k < p.inputs; k += group) {
      keep_n_of(p, random, k, std::min(p.inputs, k + group), p.mask_n, row);
    }
  };
  switch (p.mask) {
    case Mask::full:
      return keep_percent(100);
    case Mask::empty:
      return;
    case Mask::nm_32:
      return keep_groups(32);
    case Mask::nm_64:
      return keep_groups(64);
    case Mask::random:
      return keep_percent(p.mask_n);
    case Mask::one_output:
      return keep_percent(output == static_cast<std::int64_t>(p.seed % 1000) % p.outputs ? 50 : 0);
    case Mask::ragged:
      return keep_percent(random.pick({0, 2, 10, 30, 100}));
    case Mask::half:
      return keep_part(32, static_cast<std::int64_t>(p.seed % 2));
    case Mask::quarter:
      return keep_part(16, (output + static_cast<std::int64_t>(p.seed % 4)) % 4);
    case Mask::last_input:
      if (p.inputs > 0) row[p.inputs - 1] = weight_of(p.weights, random);
      return;
  }
}

// Integers and halves that the quantizer must round to even: with 127 in the row the scale is
// 127 * fp32(1 / 127) = 1, and x * (1 / s) is a tie itself.
void fill_ties(Random& random, float* x, std::int64_t count) {
  const float factor = random.pick({1.0f, 1.0f, 4.0f, 0x1p-40f});
  for (std::int64_t i = 0; i < count; ++i) {
    x[i] = factor * (static_cast<float>(random.in(-127, 126)) + 0.5f);
  }
  if (count > 0) x[random.in(0, count - 1)] = factor * 127.0f;
}

void fill_normal(Random& random, float size, float* x, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    x[i] = size * (random.symmetric() + random.symmetric() + random.symmetric());
  }
}

void plant(Random& random, float value, float* x, std::int64_t count) {
  for (std::int64_t n = random.in(1, 2); n > 0 && count > 0; --n) {
    x[random.percent(30) ? count - 1 : random.in(0, count - 1)] = value;
  }
}

}  // namespace

std::vector<std::int8_t> make_weights(const Problem& p, Random& random) {
  std::vector<std::int8_t> dense(static_cast<std::size_t>(p.outputs * p.taps * p.inputs), 0);
  for (std::int64_t o = 0; o < p.outputs; ++o) {
    for (int tap = 0; tap < p.taps; ++tap) {
      fill_tap(p, random, o, dense.data() + (o * p.taps + tap) * p.inputs);
    }
  }
  return dense;
}

std::vector<float> make_float_weights(const Problem& p, Random& random) {
  const std::vector<std::int8_t> integers = make_weights(p, random);
  std::vector<float> dense(integers.begin(), integers.end());
  for (float& w : dense) {
    if (p.weights != WeightFill::small) w *= (0.5f + random.unit()) / 64;
    if (p.weights == WeightFill::extremes) w *= random.pick({0x1p-20f, 1.0f, 1.0f, 1024.0f});
    if (is_bf16(p.op)) w = reference::round_bf16(w);
  }
  return dense;
}

std::vector<std::int32_t> make_order(Random& random, std::int64_t outputs, std::int64_t groups) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(outputs));
  std::iota(order.begin(), order.end(), 0);
  const std::int64_t per_group = outputs / groups;
  for (std::int64_t block = 0; block < outputs;) {
    const std::int64_t end = std::min(block + kOrderBlock, (block / per_group + 1) * per_group);
    const auto first = order.begin() + block, last = order.begin() + end;
    if (random.percent(15)) {
      std::reverse(first, last);
    } else if (!random.percent(15)) {
      for (auto it = first; it != last; ++it) std::swap(*it, it[random.in(0, last - it - 1)]);
    }
    block = end;
  }
  return order;
}

std::vector<std::int32_t> order_of(const Problem& p) {
  if (!p.ordered) return {};
  Random random(p.seed, 1);
  std::vector<std::int32_t> order = make_order(random, p.outputs, groups_of(p));
  if (std::is_sorted(order.begin(), order.end())) order.clear();
  return order;
}

std::vector<std::int32_t> places_of(const std::vector<std::int32_t>& order, std::int64_t groups) {
  std::vector<std::int32_t> places(order.size());
  const std::int64_t per_group = static_cast<std::int64_t>(order.size()) / groups;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const std::int64_t in_group = static_cast<std::int64_t>(i) % per_group;
    places[static_cast<std::size_t>(order[i])] = static_cast<std::int32_t>(in_group % kOrderBlock);
  }
  return places;
}

void fill_bytes(ByteFill fill, Random& random, std::uint8_t* bytes, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    switch (fill) {
      case ByteFill::any:
        bytes[i] = static_cast<std::uint8_t>(random.in(0, 255));
        break;
      case ByteFill::small:
        bytes[i] = static_cast<std::uint8_t>(random.in(0, 4));
        break;
      case ByteFill::extremes:
        bytes[i] = static_cast<std::uint8_t>(random.pick({0, 1, 127, 128, 254, 255}));
        break;
      case ByteFill::all_255:
        bytes[i] = 255;
        break;
    }
  }
}

void fill_floats(FloatFill fill, Random& random, float* x, std::int64_t count) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  switch (fill) {
    case FloatFill::normal:
      return fill_normal(random, random.pick({0.01f, 1.0f, 1.0f, 30.0f}), x, count);
    case FloatFill::integers:
      for (std::int64_t i = 0; i < count; ++i) x[i] = static_cast<float>(random.in(-127, 127));
      return;
    case FloatFill::ties:
      return fill_ties(random, x, count);
    case FloatFill::wide:
      for (std::int64_t i = 0; i < count; ++i) {
        x[i] = std::ldexp(random.symmetric(), static_cast<int>(random.in(-20, 3)));
      }
      return;
    case FloatFill::zeros:
      for (std::int64_t i = 0; i < count; ++i) x[i] = random.percent(50) ? 0.0f : -0.0f;
      return;
    case FloatFill::tiny:  // around the 2^-100 under which a row counts as zero
      return fill_normal(random, random.pick({0x1p-99f, 0x1p-101f, 0x1p-102f, 0x1p-120f}), x,
                         count);
    case FloatFill::subnormal:  // among ordinary numbers; flushing them must make no difference
      fill_normal(random, 0x1p-128f, x, count);
      if (random.percent(50)) plant(random, random.pick({0x1p-100f, 0x1p-98f, 0x1p-95f}), x, count);
      return;
    case FloatFill::nan:
      fill_normal(random, 1.0f, x, count);
      return plant(random, std::numeric_limits<float>::quiet_NaN(), x, count);
    case FloatFill::inf:
      fill_normal(random, 1.0f, x, count);
      return plant(random, random.percent(50) ? kInf : -kInf, x, count);
    case FloatFill::huge:
      return fill_normal(random, 1.1e38f, x, count);
    case FloatFill::mixed:
      return fill_floats(static_cast<FloatFill>(random.percent(50) ? 0 : random.in(0, 9)), random,
                         x, count);
  }
}

void fill_scales(Random& random, std::int64_t inputs, float* scale, std::int64_t count) {
  // acc is about 60 * 60 * sqrt(inputs) and the row's scale about 1 / 40.
  const float usual =
      1.0f / (90.0f * std::sqrt(static_cast<float>(std::max<std::int64_t>(inputs, 1))));
  for (std::int64_t i = 0; i < count; ++i) {
    scale[i] = usual * (0.25f + 2.0f * random.unit());
    if (random.percent(2)) scale[i] = random.pick({1.0f, 0x1p-126f, 0x1p-60f, 0x1p100f, 3.0e38f});
  }
}

}  // namespace skd::check
