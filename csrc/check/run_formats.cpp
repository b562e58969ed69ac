// The laws of the stored formats: unpack(pack(w)) == w by an address formula of its own,
// pack(unpack(p)) == p, damaged parts are refused, and whatever is accepted is canonical.
#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "check/data.h"
#include "check/malformed.h"
#include "check/runner.h"
#include "check/windowed_weights.h"
#include "core/check.h"
#include "formats/dense_s8.h"

namespace skd::check {
namespace {

using Matrix = std::vector<std::int8_t>;

constexpr int kDamages = 4;  // tried on each problem
constexpr int kFlips = 3;

template <class T>
bool equal(const T* a, const std::vector<T>& b) {
  return std::equal(b.begin(), b.end(), a);
}

bool same_parts(const WindowedS8Weight& a, const WindowedS8Weight& b) {
  const StoredWindowed x(a), y(b);
  return x.values == y.values && x.positions == y.positions && x.steps == y.steps &&
         x.step_ptr == y.step_ptr && x.order == y.order;
}

template <class Weight>
Matrix unpack(const Weight& weight) {
  Matrix dense(size(weight.outputs() * weight.taps() * weight.inputs()), 99);
  weight.unpack(dense.data());
  return dense;
}

std::int64_t output_in(const StoredWindowed& s, std::int64_t place) {
  return s.order.empty() ? place : s.order[size(place)];
}

// The dense matrix by the drawing in formats/windowed_s8.h.
Matrix read_windowed(const WindowedS8Weight& weight) {
  const StoredWindowed s(weight);
  const std::int64_t per_tap = (s.inputs + kWindow - 1) / kWindow;
  Matrix dense(size(s.outputs * s.taps * s.inputs), 0);
  for (std::int64_t slice = 0; slice < s.slices; ++slice) {
    std::int64_t step = s.step_ptr[size(slice)];
    for (std::int64_t w = 0; w < s.windows; ++w) {
      for (int t = 0; t < s.steps[size(slice * s.windows + w)]; ++t, ++step) {
        for (std::int64_t entry = 0; entry < kLanes * kDot; ++entry) {
          const std::int8_t value = s.values[size(step * kLanes * kDot + entry)];
          if (value == 0) continue;
          const std::int64_t output = output_in(s, s.layout().first_output(slice) + entry / kDot);
          const std::int64_t input =
              w % per_tap * kWindow + s.positions[size(step * kLanes * kDot + entry)];
          dense[size((output * s.taps + w / per_tap) * s.inputs + input)] = value;
        }
      }
    }
  }
  return dense;
}

// Sums and flags that the kernels get beside the stored arrays.
void expect_derived(const WindowedS8Weight& weight, const Matrix& dense) {
  const StoredWindowed s(weight);
  const WindowedS8& view = weight.view();
  const std::int64_t columns = s.taps * s.inputs;
  std::int64_t largest = 0;
  for (std::int64_t i = 0; i < s.slices * kLanes; ++i) {
    const bool real = i % kLanes < s.layout().lanes(i / kLanes);
    const std::int64_t place = s.layout().first_output(i / kLanes) + i % kLanes;
    const std::int64_t o = real ? output_in(s, place) : 0;
    std::int64_t sum = 0, absolute = 0;
    for (std::int64_t k = 0; real && k < columns; ++k) {
      sum += dense[size(o * columns + k)];
      absolute += std::abs(dense[size(o * columns + k)]);
    }
    expect(view.weight_sums[i] == sum, "weight_sums[", i, "] = ", view.weight_sums[i],
           ", expected ", sum);
    largest = std::max(largest, absolute);
  }
  expect(weight.largest_weight_sum() == largest, "largest_weight_sum ", weight.largest_weight_sum(),
         ", expected ", largest);
  for (std::int64_t step = 0; step < s.total_steps; ++step) {
    unsigned quarters = 0;
    for (std::int64_t i = step * kLanes * kDot; i < (step + 1) * kLanes * kDot; ++i) {
      if (s.values[size(i)] != 0) quarters |= 1u << s.positions[size(i)] / 16;
    }
    expect(view.quarters[step] == quarters, "quarters[", step, "] = ", int{view.quarters[step]},
           ", expected ", quarters);
  }
  const bool uniform = !s.steps.empty() && std::count(s.steps.begin(), s.steps.end(), s.steps[0]) ==
                                               static_cast<std::ptrdiff_t>(s.steps.size());
  expect(view.uniform_steps == (uniform ? s.steps[0] : 0), "uniform_steps ", view.uniform_steps);
}

WindowedS8Weight load(const StoredWindowed& s, Side side, GuardedMemory& memory) {
  memory.start(side);
  const auto guard = [&memory](const char* name, const auto& v) {
    return memory.copy(name, v.data(), static_cast<std::int64_t>(v.size()));
  };
  WindowedS8Parts parts;
  parts.values = guard("values", s.values);
  parts.positions = guard("positions", s.positions);
  parts.total_steps = parts.total_words = s.total_steps;
  parts.steps = guard("steps", s.steps);
  parts.slices = s.slices;
  parts.windows = s.windows;
  parts.step_ptr = guard("step_ptr", s.step_ptr);
  if (!s.order.empty()) parts.order = guard("order", s.order);
  return WindowedS8Weight::from_parts(parts, {s.outputs, s.inputs, kWindow, s.taps, s.groups});
}

DenseS8Weight load(const StoredDense& s, Side side, GuardedMemory& memory) {
  memory.start(side);
  const std::int8_t* panels =
      memory.copy("panels", s.panels.data(), static_cast<std::int64_t>(s.panels.size()));
  return DenseS8Weight::from_parts(panels, s.size, s.outputs, s.inputs, s.taps, s.groups);
}

// Throws Failure unless load() refuses what `damage` left, with a sentence.
template <class Stored, class Damage>
void expect_refused(const Stored& stored, const Damage& damage, Random& random,
                    GuardedMemory& memory) {
  Stored damaged = stored;
  if (!damage.apply(damaged, random)) return;
  for (const Side side : {Side::end, Side::start}) {
    std::string message;
    try {
      load(damaged, side, memory);
    } catch (const Error& error) {
      message = error.what();
    }
    expect(message.size() > 10, "a weight with this damage was accepted: ", damage.name);
  }
}

// One random bit of the arrays: refused, or still canonical.
template <class Array>
void flip(Array& array, Random& random) {
  if (array.empty()) return;
  auto* bytes = reinterpret_cast<unsigned char*>(array.data());
  const std::int64_t count = static_cast<std::int64_t>(array.size() * sizeof(array[0]));
  bytes[random.in(0, count - 1)] ^= static_cast<unsigned char>(1 << random.in(0, 7));
}

bool is_canonical(const WindowedS8Weight& weight) {
  const Matrix dense = unpack(weight);
  return same_parts(weight,
                    WindowedS8Weight::pack(dense.data(), weight.shape(), weight.parts().order));
}
bool is_canonical(const DenseS8Weight& weight) {
  const Matrix dense = unpack(weight);
  const auto again = DenseS8Weight::pack(dense.data(), weight.outputs(), weight.inputs(),
                                         weight.taps(), weight.layout().groups);
  return std::equal(weight.panels(), weight.panels() + weight.packed_bytes(), again.panels());
}

// A step given to the next window, which leaves every sum right: it may even be a weight.
void move_step(StoredWindowed& s, Random& random) {
  if (s.windows < 2 || s.slices == 0) return;
  const std::int64_t at = random.in(0, s.slices - 1) * s.windows + random.in(0, s.windows - 2);
  std::uint8_t* pair = s.steps.data() + at;
  if (pair[0] == 0) return;
  --pair[0];
  ++pair[1];
}

template <class Stored>
void expect_canonical_if_accepted(const Stored& damaged, GuardedMemory& memory) {
  bool canonical = true;
  try {
    canonical = is_canonical(load(damaged, Side::end, memory));
  } catch (const Error&) {
    return;
  }
  expect(canonical, "damaged parts gave a weight that is accepted, but not canonical");
}

template <class Pack>
void expect_minus_128_refused(Matrix dense, Random& random, const Pack& pack) {
  if (dense.empty()) return;
  dense[size(random.in(0, static_cast<std::int64_t>(dense.size()) - 1))] = -128;
  std::string message;
  try {
    pack(dense.data());
  } catch (const Error& error) {
    message = error.what();
  }
  expect(message.find("-128") != std::string::npos, "pack did not refuse -128: '", message, "'");
}

}  // namespace

Coverage run_windowed_format(const Problem& p, GuardedMemory& memory) {
  Random random(p.seed);
  const Matrix dense = make_weights(p, random);
  const auto weight = pack_windowed<S8Format>(p, dense.data());
  expect(read_windowed(weight) == dense, "pack does not follow the drawing");
  expect(unpack(weight) == dense, "unpack(pack(w)) differs from w");
  expect_derived(weight, dense);

  const StoredWindowed stored(weight);
  const std::size_t bytes = stored.values.size() + stored.positions.size() + stored.steps.size() +
                            8 * stored.step_ptr.size() + 4 * stored.order.size();
  expect(size(weight.packed_bytes()) == bytes, "packed_bytes ", weight.packed_bytes());
  for (const Side side : {Side::end, Side::start}) {
    const WindowedS8Weight again = load(stored, side, memory);
    expect(same_parts(again, weight), "from_parts changes the parts");
    expect(unpack(again) == dense, "unpack(from_parts(parts)) differs from w");
    expect_derived(again, dense);
  }
  expect_order_saves<S8Format>(dense.data(), shape_of(p));
  expect_minus_128_refused(dense, random,
                           [&](const std::int8_t* w) { pack_windowed<S8Format>(p, w); });
  const auto& damages = windowed_damages();
  for (int i = 0; i < kDamages; ++i) {
    const auto which = random.in(0, static_cast<std::int64_t>(damages.size()) - 1);
    expect_refused(stored, damages[size(which)], random, memory);
  }
  for (int i = 0; i < kFlips; ++i) {
    StoredWindowed damaged = stored;
    const std::int64_t array = random.in(0, 7);
    if (array == 0) flip(damaged.step_ptr, random);
    if (array == 1) flip(damaged.steps, random);
    if (array == 2 || array == 3) flip(damaged.positions, random);
    if (array == 4 || array == 5) flip(damaged.values, random);
    if (array == 6) move_step(damaged, random);
    if (array == 7) flip(damaged.order, random);
    expect_canonical_if_accepted(damaged, memory);
  }
  Coverage coverage;
  for (const std::int8_t w : dense) coverage.count(w != 0);
  return coverage;
}

Coverage run_dense_format(const Problem& p, GuardedMemory& memory) {
  Random random(p.seed);
  const Matrix dense = make_weights(p, random);
  const auto weight = DenseS8Weight::pack(dense.data(), p.outputs, p.inputs, p.taps, p.groups);
  const std::int64_t per_tap = (p.inputs + kDot - 1) / kDot, quads = per_tap * p.taps;
  const std::int64_t per_group = p.outputs / p.groups;
  const std::int64_t group_slices = (per_group + kLanes - 1) / kLanes;
  Matrix drawn(size(p.groups * group_slices * quads * kLanes * kDot), 0);
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(dense.size()); ++i) {
    const std::int64_t o = i / (p.taps * p.inputs), tap = i / p.inputs % p.taps, k = i % p.inputs;
    const std::int64_t slice = o / per_group * group_slices + o % per_group / kLanes;
    const std::int64_t quad = tap * per_tap + k / kDot, lane = o % per_group % kLanes;
    drawn[size(((slice * quads + quad) * kLanes + lane) * kDot + k % kDot)] = dense[size(i)];
  }
  expect(size(weight.packed_bytes()) == drawn.size(), "packed_bytes ", weight.packed_bytes());
  expect(equal(weight.panels(), drawn), "pack does not follow the drawing");
  expect(unpack(weight) == dense, "unpack(pack(w)) differs from w");
  for (std::int64_t o = 0; o < p.outputs; ++o) {
    std::int64_t sum = 0;
    for (std::int64_t k = 0; k < p.taps * p.inputs; ++k)
      sum += dense[size(o * p.taps * p.inputs + k)];
    const std::int64_t at =
        (o / per_group * group_slices + o % per_group / kLanes) * kLanes + o % per_group % kLanes;
    expect(weight.view().weight_sums[at] == sum, "weight_sums[", at, "] is not ", sum);
  }

  const StoredDense stored{
      drawn, static_cast<std::int64_t>(drawn.size()), p.outputs, p.inputs, p.taps, p.groups};
  for (const Side side : {Side::end, Side::start}) {
    expect(unpack(load(stored, side, memory)) == dense,
           "unpack(from_parts(panels)) differs from w");
  }
  expect_minus_128_refused(dense, random, [&](const std::int8_t* w) {
    DenseS8Weight::pack(w, p.outputs, p.inputs, p.taps, p.groups);
  });
  const auto& damages = dense_damages();
  for (int i = 0; i < kDamages; ++i) {
    const auto which = random.in(0, static_cast<std::int64_t>(damages.size()) - 1);
    expect_refused(stored, damages[size(which)], random, memory);
  }
  for (int i = 0; i < kFlips; ++i) {
    StoredDense damaged = stored;
    flip(damaged.panels, random);
    expect_canonical_if_accepted(damaged, memory);
  }
  Coverage coverage;
  for (const std::int8_t w : dense) coverage.count(w != 0);
  return coverage;
}

}  // namespace skd::check
