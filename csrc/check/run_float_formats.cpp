// The laws of the windowed fp32 and bf16 formats: the drawing, unpack(pack(w)) == w, and a
// catalogue of damage that from_parts() refuses.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "check/data.h"
#include "check/malformed.h"
#include "check/runner.h"
#include "check/windowed_weights.h"
#include "core/check.h"

namespace skd::check {
namespace {

constexpr int kDamages = 5;  // tried on each problem
constexpr int kFlips = 3;

template <class T>
std::int64_t count_of(const std::vector<T>& v) {
  return static_cast<std::int64_t>(v.size());
}

// The stored arrays and the sizes that a file claims for them, free to change.
template <class Format>
struct Stored {
  std::vector<typename Format::Value> values;
  std::vector<typename Format::Word> positions;
  std::vector<std::uint8_t> steps;
  std::vector<std::int64_t> step_ptr;
  std::vector<std::int32_t> order;       // empty: none
  std::vector<std::int64_t> first_word;  // [slices + 1], never stored
  std::int64_t total_steps, total_words, slices, windows;
  WindowedShape shape;

  Stored(const WindowedWeight<Format>& weight, const WindowedShape& claimed) : shape(claimed) {
    const auto parts = weight.parts();
    constexpr std::int64_t kEntries = kEntriesOf<Format>;
    total_steps = parts.total_steps;
    total_words = parts.total_words;
    slices = parts.slices;
    windows = parts.windows;
    values.assign(parts.values, parts.values + total_steps * kEntries);
    positions.assign(parts.positions, parts.positions + total_words * kEntries);
    steps.assign(parts.steps, parts.steps + slices * windows);
    step_ptr.assign(parts.step_ptr, parts.step_ptr + slices + 1);
    if (parts.order != nullptr) order.assign(parts.order, parts.order + shape.outputs);
    first_word.push_back(0);
    for (std::int64_t i = 0; i < slices; ++i) {
      const std::int64_t count = step_ptr[size(i + 1)] - step_ptr[size(i)];
      first_word.push_back(first_word.back() + (count + per_word() - 1) / per_word());
    }
  }

  bool operator==(const Stored& other) const {
    const bool bits = values.empty() || std::memcmp(values.data(), other.values.data(),
                                                    values.size() * sizeof values[0]) == 0;
    return values.size() == other.values.size() && bits && positions == other.positions &&
           steps == other.steps && step_ptr == other.step_ptr && order == other.order;
  }
  bool kept(std::int64_t entry) const {
    const auto zero = typename Format::Value{};
    return values[size(entry)] != zero;
  }
  int per_word() const { return Format::kDot == 2 ? 3 : shape.window == 16 ? 8 : 6; }
  int bits() const { return shape.window == 16 ? 4 : 5; }

  SlicedOutputs layout() const { return {shape.outputs, shape.groups}; }
  std::int64_t last_of_a_group(Random& random) const {
    const std::int64_t per_group = layout().slices_per_group();
    return random.in(1, slices / per_group) * per_group - 1;
  }

  // The word and the shift that hold the position of entry e of step t of a slice.
  std::int64_t word_of(std::int64_t slice, std::int64_t t, std::int64_t e) const {
    return (first_word[size(slice)] + t / per_word()) * kEntriesOf<Format> + e;
  }
  int shift_of(std::int64_t t) const { return bits() * static_cast<int>(t % per_word()); }
};

// The dense matrix by the drawing in formats/windowed_float.h.
template <class Format>
std::vector<typename Format::Value> read(const Stored<Format>& s) {
  const std::int64_t window = s.shape.window, inputs = s.shape.inputs, taps = s.shape.taps;
  const std::int64_t per_tap = (inputs + window - 1) / window;
  std::vector<typename Format::Value> dense(size(s.shape.outputs * taps * inputs));
  for (std::int64_t slice = 0; slice < s.slices; ++slice) {
    std::int64_t t = 0;
    for (std::int64_t w = 0; w < s.windows; ++w) {
      for (int i = 0; i < s.steps[size(slice * s.windows + w)]; ++i, ++t) {
        for (std::int64_t e = 0; e < kEntriesOf<Format>; ++e) {
          const std::int64_t entry = (s.step_ptr[size(slice)] + t) * kEntriesOf<Format> + e;
          if (!s.kept(entry)) continue;
          const std::int64_t place = s.layout().first_output(slice) + e / Format::kDot;
          const std::int64_t output = s.order.empty() ? place : s.order[size(place)];
          const auto word = s.positions[size(s.word_of(slice, t, e))];
          const std::int64_t position = (word >> s.shift_of(t)) % window;
          dense[size((output * taps + w / per_tap) * inputs + w % per_tap * window + position)] =
              s.values[size(entry)];
        }
      }
    }
  }
  return dense;
}

template <class Format>
WindowedWeight<Format> load(const Stored<Format>& s, Side side, GuardedMemory& memory) {
  memory.start(side);
  const auto guard = [&memory](const char* name, const auto& v) {
    return memory.copy(name, v.data(), count_of(v));
  };
  WindowedParts<Format> parts;
  parts.values = guard("values", s.values);
  parts.positions = guard("positions", s.positions);
  parts.total_steps = s.total_steps;
  parts.total_words = s.total_words;
  parts.steps = guard("steps", s.steps);
  parts.slices = s.slices;
  parts.windows = s.windows;
  parts.step_ptr = guard("step_ptr", s.step_ptr);
  if (!s.order.empty()) parts.order = guard("order", s.order);
  return WindowedWeight<Format>::from_parts(parts, s.shape);
}

template <class Format>
std::vector<typename Format::Value> unpack(const WindowedWeight<Format>& weight) {
  std::vector<typename Format::Value> dense(
      size(weight.outputs() * weight.taps() * weight.inputs()));
  weight.unpack(dense.data());
  return dense;
}

template <class Format>
typename Format::Value value_of(float x) {
  if constexpr (Format::kDot == 2) {
    return bf16_from_float(x);
  } else {
    return x;
  }
}

// A random entry of `values` that is kept (or not), or -1.
template <class Format>
std::int64_t find_entry(const Stored<Format>& s, Random& random, bool kept) {
  std::vector<std::int64_t> found;
  for (std::int64_t i = 0; i < count_of(s.values); ++i) {
    if (s.kept(i) == kept) found.push_back(i);
  }
  return found.empty() ? -1 : found[size(random.in(0, count_of(found) - 1))];
}

template <class Format>
struct Damage {
  const char* name;
  bool (*apply)(Stored<Format>& s, Random& random);  // false: this weight has no place for it
};

template <class Format>
bool put(Stored<Format>& s, std::int64_t entry, float value) {
  if (entry < 0) return false;
  s.values[size(entry)] = value_of<Format>(value);
  return true;
}

// Sets the position of an entry of `values`; bits beside it stay.
template <class Format>
bool put_position(Stored<Format>& s, std::int64_t entry, unsigned position) {
  if (entry < 0) return false;
  const std::int64_t step = entry / kEntriesOf<Format>;
  std::int64_t slice = 0;
  while (s.step_ptr[size(slice + 1)] <= step) ++slice;
  const std::int64_t t = step - s.step_ptr[size(slice)];
  auto& word = s.positions[size(s.word_of(slice, t, entry % kEntriesOf<Format>))];
  const unsigned mask = static_cast<unsigned>(s.shape.window - 1) << s.shift_of(t);
  word = static_cast<typename Format::Word>((word & ~mask) | position << s.shift_of(t));
  return true;
}

template <class Format>
const std::vector<Damage<Format>>& damages() {
  using S = Stored<Format>;
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInf = std::numeric_limits<float>::infinity();
  static const std::vector<Damage<Format>> list = {
      {"step_ptr does not start at 0",
       [](S& s, Random& random) {
         s.step_ptr[0] = random.pick<std::int64_t>({-1, 1, INT64_MIN, INT64_MAX});
         return true;
       }},
      {"step_ptr is wrong",
       [](S& s, Random& random) {
         if (s.slices == 0) return false;
         std::int64_t& entry = s.step_ptr[size(random.in(1, s.slices))];
         entry = random.pick<std::int64_t>({entry - 1, entry + 1, INT64_MIN, INT64_MAX});
         return true;
       }},
      {"a step count is wrong",
       [](S& s, Random& random) {
         if (s.steps.empty()) return false;
         std::uint8_t& count = s.steps[size(random.in(0, count_of(s.steps) - 1))];
         const std::uint8_t before = count;
         count = static_cast<std::uint8_t>(random.pick<int>({count + 1, count - 1, 33, 255}));
         return count != before;
       }},
      {"steps are missing",
       [](S& s, Random& random) {
         if (s.total_steps == 0) return false;
         s.total_steps -= random.in(1, s.total_steps);
         return true;
       }},
      {"another number of words",
       [](S& s, Random& random) {
         s.total_words += random.pick({-1, 1});
         s.positions.resize(size(std::max<std::int64_t>(0, s.total_words) * kEntriesOf<Format>));
         return true;
       }},
      {"negative steps or words",
       [](S& s, Random& random) {
         (random.percent(50) ? s.total_steps : s.total_words) = -1;
         return true;
       }},
      {"other slices or windows",
       [](S& s, Random& random) {
         (random.percent(50) ? s.slices : s.windows) += random.pick({-1, 1});
         return true;
       }},
      {"a negative or enormous size",
       [](S& s, Random& random) {
         (random.percent(50) ? s.shape.outputs : s.shape.inputs) =
             random.pick<std::int64_t>({-1, INT64_MIN, INT64_MAX});
         return true;
       }},
      {"no taps", [](S& s, Random& random) { return s.shape.taps = random.pick({0, -1}), true; }},
      {"another window",
       [](S& s, Random& random) {
         return s.shape.window = random.pick({0, -16, 8, 24, 64}), true;
       }},
      {"groups that do not divide",
       [](S& s, Random& random) {
         s.shape.groups = random.pick<std::int64_t>({0, -1, s.shape.outputs + 1});
         return s.shape.outputs > 0 || s.shape.groups <= 0;
       }},
      {"NaN or Inf",
       [](S& s, Random& random) {
         return put(s, find_entry(s, random, true), random.pick({kNan, kInf, -kInf}));
       }},
      {"padding of -0",
       [](S& s, Random& random) { return put(s, find_entry(s, random, false), -0.0f); }},
      {"padding with a position",
       [](S& s, Random& random) {
         return put_position(s, find_entry(s, random, false), random.pick({1u, 7u, 15u}));
       }},
      {"a position twice or out of order",
       [](S& s, Random& random) {  // the second of two that one lane keeps of the last window
         if (s.slices == 0 || s.windows == 0 || s.steps.back() < 2) return false;
         const std::int64_t first = (s.total_steps - s.steps.back()) * kEntriesOf<Format>;
         const std::int64_t lane = random.in(0, kLanes - 1) * Format::kDot;
         const std::int64_t second = first + lane + (Format::kDot == 2 ? 1 : kEntriesOf<Format>);
         return s.kept(second) && put_position(s, second, 0);
       }},
      {"bits that belong to no step",
       [](S& s, Random& random) {
         if (s.positions.empty()) return false;
         std::int64_t slice = s.slices - 1;
         while (s.step_ptr[size(slice + 1)] == s.step_ptr[size(slice)]) --slice;
         const std::int64_t last = s.step_ptr[size(slice + 1)] - s.step_ptr[size(slice)] - 1;
         const int used = s.shift_of(last) + s.bits();
         if (used >= static_cast<int>(8 * sizeof s.positions[0])) return false;
         const std::int64_t word = s.word_of(slice, last, random.in(0, kEntriesOf<Format> - 1));
         s.positions[size(word)] =
             static_cast<typename Format::Word>(s.positions[size(word)] | std::uint32_t{1} << used);
         return true;
       }},
      {"a weight of no output",
       [](S& s, Random& random) {
         if (s.slices == 0) return false;
         const std::int64_t slice = s.last_of_a_group(random), lanes = s.layout().lanes(slice);
         const std::int64_t step = s.step_ptr[size(slice)];
         if (lanes == kLanes || s.step_ptr[size(slice + 1)] == step) return false;
         const std::int64_t lane = random.in(lanes, kLanes - 1);
         return put(s, step * kEntriesOf<Format> + lane * Format::kDot, 1.5f);
       }},
      {"an order with an output twice",
       [](S& s, Random& random) { return output_twice(s.order, random); }},
      {"an order with no such output",
       [](S& s, Random& random) { return no_such_output(s.order, random); }},
      {"an order across blocks", [](S& s, Random&) { return across_blocks(s.order, s.layout()); }},
      {"an order that moves nothing",
       [](S& s, Random&) { return moves_nothing(s.order, s.shape.outputs); }},
  };
  return list;
}

template <class Format>
void expect_refused(const Stored<Format>& stored, const Damage<Format>& damage, Random& random,
                    GuardedMemory& memory) {
  Stored<Format> damaged = stored;
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

// One random bit of an array.
template <class Array>
void flip(Array& array, Random& random) {
  if (array.empty()) return;
  auto* bytes = reinterpret_cast<unsigned char*>(array.data());
  const std::int64_t count = static_cast<std::int64_t>(array.size() * sizeof(array[0]));
  bytes[random.in(0, count - 1)] ^= static_cast<unsigned char>(1 << random.in(0, 7));
}

// Whatever from_parts() accepts is what pack() makes of it.
template <class Format>
void expect_canonical_if_accepted(const Stored<Format>& damaged, GuardedMemory& memory) {
  bool canonical = true;
  try {
    const auto weight = load(damaged, Side::end, memory);
    const auto again =
        WindowedWeight<Format>::pack(unpack(weight).data(), damaged.shape, weight.parts().order);
    canonical = Stored<Format>(again, damaged.shape) == damaged;
  } catch (const Error&) {
    return;
  }
  expect(canonical, "damaged parts gave a weight that is accepted, but not canonical");
}

template <class Format>
void expect_not_finite_refused(const Problem& p, std::vector<float> dense, Random& random) {
  if (dense.empty()) return;
  dense[size(random.in(0, count_of(dense) - 1))] = random.percent(50) ? INFINITY : NAN;
  std::string message;
  try {
    pack_floats<Format>(p, dense);
  } catch (const Error& error) {
    message = error.what();
  }
  expect(message.find("finite") != std::string::npos, "pack took NaN or Inf: '", message, "'");
}

// The count that every window of the weight has, where a short last window of a single tap may have
// its own; else 0.
template <class Format>
int uniform_steps_of(const Stored<Format>& s) {
  const bool apart = s.shape.taps == 1 && s.windows > 1 && s.shape.inputs % s.shape.window != 0;
  for (std::int64_t slice = 0; slice < s.slices; ++slice) {
    for (std::int64_t w = 0; w < s.windows - apart; ++w) {
      if (s.steps[size(slice * s.windows + w)] != s.steps[0]) return 0;
    }
  }
  return s.steps.empty() ? 0 : s.steps[0];
}

template <class Format>
Coverage check_format(const Problem& p, GuardedMemory& memory) {
  Random random(p.seed);
  const std::vector<float> floats = make_float_weights(p, random);
  const auto dense = stored_values<Format>(floats);
  const auto weight = pack_floats<Format>(p, floats);
  const Stored<Format> stored(weight, shape_of(p));
  expect(read(stored) == dense, "pack does not follow the drawing");
  expect(unpack(weight) == dense, "unpack(pack(w)) differs from w");
  expect(weight.view().uniform_steps == uniform_steps_of(stored), "uniform_steps ",
         weight.view().uniform_steps);
  for (const Side side : {Side::end, Side::start}) {
    const auto again = load(stored, side, memory);
    expect(Stored<Format>(again, shape_of(p)) == stored, "from_parts changes the parts");
    expect(unpack(again) == dense, "unpack(from_parts(parts)) differs from w");
  }
  const auto steps = WindowedWeight<Format>::count_steps(dense.data(), shape_of(p));
  expect(p.ordered || steps == weight.total_steps(), "count_steps ", steps, ", packed ",
         weight.total_steps());
  expect_order_saves<Format>(dense.data(), shape_of(p));
  expect_not_finite_refused<Format>(p, floats, random);
  for (int i = 0; i < kDamages; ++i) {
    const auto& list = damages<Format>();
    expect_refused(stored, list[size(random.in(0, count_of(list) - 1))], random, memory);
  }
  for (int i = 0; i < kFlips; ++i) {
    Stored<Format> damaged = stored;
    const std::int64_t array = random.in(0, 6);
    if (array == 0) flip(damaged.step_ptr, random);
    if (array == 1) flip(damaged.steps, random);
    if (array == 2 || array == 3) flip(damaged.positions, random);
    if (array == 4 || array == 5) flip(damaged.values, random);
    if (array == 6) flip(damaged.order, random);
    expect_canonical_if_accepted(damaged, memory);
  }
  Coverage coverage;
  for (const float w : floats) coverage.count(w != 0);
  return coverage;
}

}  // namespace

Coverage run_float_format(const Problem& p, GuardedMemory& memory) {
  return is_bf16(p.op) ? check_format<Bf16Format>(p, memory) : check_format<F32Format>(p, memory);
}

}  // namespace skd::check
