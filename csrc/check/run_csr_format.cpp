// The laws of the CSR format: pack and unpack, and every kind of invalid structure refused.
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "check/conv_images.h"
#include "check/data.h"
#include "check/runner.h"
#include "core/check.h"
#include "formats/csr_f32.h"

namespace skd::check {
namespace {

constexpr int kDamages = 5;  // tried on each problem
constexpr int kFlips = 3;

struct Stored {
  CsrF32Arrays arrays;
  std::int64_t kept, outputs, inputs;

  // An output that keeps at least `count`, or -1; its first entry is row_ptr[output].
  std::int64_t output_with(std::int64_t count, Random& random) const {
    for (std::int64_t i = 0; i < 40 && outputs > 0; ++i) {
      const std::int64_t o = random.in(0, outputs - 1);
      if (arrays.row_ptr[size(o + 1)] - arrays.row_ptr[size(o)] >= count) return o;
    }
    return -1;
  }
};

CsrF32Weight load(const Stored& s, Side side, GuardedMemory& memory) {
  memory.start(side);
  const auto guard = [&memory](const char* name, const auto& v) {
    return memory.copy(name, v.data(), static_cast<std::int64_t>(v.size()));
  };
  CsrF32Parts parts;
  parts.row_ptr = guard("row_ptr", s.arrays.row_ptr);
  parts.columns = guard("columns", s.arrays.columns);
  parts.values = guard("values", s.arrays.values);
  parts.kept = s.kept;
  return CsrF32Weight::from_parts(parts, s.outputs, s.inputs);
}

struct Damage {
  const char* name;
  bool (*apply)(Stored& s, Random& random);  // false: this weight has no place for it
};

bool put_column(Stored& s, Random& random, std::int64_t column) {
  const std::int64_t o = s.output_with(1, random);
  if (o < 0) return false;
  const std::int64_t last = s.arrays.row_ptr[size(o + 1)] - 1;
  s.arrays.columns[size(last)] = static_cast<std::int32_t>(column);
  return true;
}
bool put_value(Stored& s, Random& random, float value) {
  if (s.kept == 0) return false;
  s.arrays.values[size(random.in(0, s.kept - 1))] = value;
  return true;
}

constexpr Damage kList[] = {
    {"row_ptr does not start at 0",
     [](Stored& s, Random& random) {
       s.arrays.row_ptr[0] = random.pick<std::int64_t>({-1, 1, INT64_MIN, INT64_MAX});
       return true;
     }},
    {"row_ptr is not monotone",
     [](Stored& s, Random& random) {
       if (s.outputs < 2) return false;
       std::int64_t& entry = s.arrays.row_ptr[size(random.in(1, s.outputs - 1))];
       entry = random.pick<std::int64_t>({-1, s.kept + 1, INT64_MIN, INT64_MAX});
       return true;
     }},
    {"row_ptr does not end at the number of entries",
     [](Stored& s, Random& random) {
       if (s.outputs == 0) return false;
       s.arrays.row_ptr.back() += random.pick<std::int64_t>({-1, 1, 1LL << 40});
       return true;
     }},
    {"another number of entries",
     [](Stored& s, Random& random) {
       s.kept += random.pick<std::int64_t>({-1, 1, 1LL << 40});
       return true;
     }},
    {"a column past the last input",
     [](Stored& s, Random& random) {
       return put_column(s, random, random.pick<std::int64_t>({s.inputs, s.inputs + 1, INT32_MAX}));
     }},
    {"a negative column",
     [](Stored& s, Random& random) {
       return put_column(s, random, random.pick<std::int64_t>({-1, -64, INT32_MIN}));
     }},
    {"a column twice",
     [](Stored& s, Random& random) {
       const std::int64_t o = s.output_with(2, random);
       if (o < 0) return false;
       std::int32_t* first = &s.arrays.columns[size(s.arrays.row_ptr[size(o)])];
       first[1] = first[0];
       return true;
     }},
    {"columns out of order",
     [](Stored& s, Random& random) {
       const std::int64_t o = s.output_with(2, random);
       if (o < 0) return false;
       std::int32_t* last = &s.arrays.columns[size(s.arrays.row_ptr[size(o + 1)] - 1)];
       std::swap(last[-1], last[0]);
       return true;
     }},
    {"NaN or Inf",
     [](Stored& s, Random& random) {
       constexpr float kInf = std::numeric_limits<float>::infinity();
       return put_value(s, random, random.pick({NAN, kInf, -kInf}));
     }},
    {"a zero among the values",
     [](Stored& s, Random& random) { return put_value(s, random, random.pick({0.0f, -0.0f})); }},
    {"a negative or enormous size",
     [](Stored& s, Random& random) {
       if (random.percent(50)) {
         s.outputs = random.pick<std::int64_t>({-1, INT64_MIN});
       } else {
         s.inputs = random.pick<std::int64_t>({-1, INT64_MIN, 1LL << 31, INT64_MAX});
       }
       return true;
     }},
};

constexpr std::int64_t kListed = sizeof kList / sizeof kList[0];

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

std::vector<float> unpack(const CsrF32Weight& weight) {
  std::vector<float> dense(size(weight.outputs() * weight.inputs()), 99.0f);
  weight.unpack(dense.data());
  return dense;
}

template <class Array>
void flip(Array& array, Random& random) {
  if (array.empty()) return;
  auto* bytes = reinterpret_cast<unsigned char*>(array.data());
  const std::int64_t count = static_cast<std::int64_t>(array.size() * sizeof(array[0]));
  bytes[random.in(0, count - 1)] ^= static_cast<unsigned char>(1 << random.in(0, 7));
}

bool equal(const CsrF32Arrays& a, const CsrF32Arrays& b) {
  return a.row_ptr == b.row_ptr && a.columns == b.columns && a.values == b.values;
}

void expect_canonical_if_accepted(const Stored& damaged, GuardedMemory& memory) {
  bool canonical = true;
  try {
    const std::vector<float> dense = unpack(load(damaged, Side::end, memory));
    canonical = equal(pack_csr_f32(dense.data(), damaged.outputs, damaged.inputs), damaged.arrays);
  } catch (const Error&) {
    return;
  }
  expect(canonical, "damaged parts gave a weight that is accepted, but not canonical");
}

// The canonical form of a dense matrix, by its definition.
CsrF32Arrays by_definition(const Problem& p, const std::vector<float>& dense) {
  CsrF32Arrays arrays;
  arrays.row_ptr.push_back(0);
  for (std::int64_t o = 0; o < p.outputs; ++o) {
    for (std::int64_t k = 0; k < p.inputs; ++k) {
      if (dense[size(o * p.inputs + k)] == 0) continue;
      arrays.columns.push_back(static_cast<std::int32_t>(k));
      arrays.values.push_back(dense[size(o * p.inputs + k)]);
    }
    arrays.row_ptr.push_back(static_cast<std::int64_t>(arrays.values.size()));
  }
  return arrays;
}

void expect_not_finite_refused(const Problem& p, std::vector<float> dense, Random& random) {
  if (dense.empty()) return;
  dense[size(random.in(0, static_cast<std::int64_t>(dense.size()) - 1))] =
      random.pick({NAN, std::numeric_limits<float>::infinity()});
  std::string message;
  try {
    pack_csr_f32(dense.data(), p.outputs, p.inputs);
  } catch (const Error& error) {
    message = error.what();
  }
  expect(message.find("finite") != std::string::npos, "pack took NaN or Inf: '", message, "'");
}

}  // namespace

Coverage run_csr_format(const Problem& p, GuardedMemory& memory) {
  Random random(p.seed);
  const std::vector<float> dense = make_float_weights(p, random);
  Stored stored{pack_csr_f32(dense.data(), p.outputs, p.inputs), 0, p.outputs, p.inputs};
  stored.kept = static_cast<std::int64_t>(stored.arrays.values.size());
  expect(equal(stored.arrays, by_definition(p, dense)), "pack does not follow the definition");
  for (const Side side : {Side::end, Side::start}) {
    const CsrF32Weight weight = load(stored, side, memory);
    expect(unpack(weight) == dense, "unpack(from_parts(parts)) differs from w");
    expect(weight.kept() == stored.kept, "kept ", weight.kept(), ", expected ", stored.kept);
  }
  expect_not_finite_refused(p, dense, random);
  for (int i = 0; i < kDamages; ++i) {
    expect_refused(stored, kList[random.in(0, kListed - 1)], random, memory);
  }
  for (int i = 0; i < kFlips; ++i) {
    Stored damaged = stored;
    const std::int64_t array = random.in(0, 2);
    if (array == 0) flip(damaged.arrays.row_ptr, random);
    if (array == 1) flip(damaged.arrays.columns, random);
    if (array == 2) flip(damaged.arrays.values, random);
    expect_canonical_if_accepted(damaged, memory);
  }
  Coverage coverage;
  for (const float w : dense) coverage.count(w != 0);
  return coverage;
}

}  // namespace skd::check
