// Float windows, one lane after the other. Without an FMA the fp32 sums round twice a step.

// A word of positions in memory and how far it has been used.
template <class Word>
struct ShiftedWord {
  const Word* p;
  int shift;
  template <int WIDTH>
  int at(int entry) const {
    return static_cast<int>(p[entry] >> shift) & (WIDTH - 1);
  }
};

template <int WINDOW>
struct GatherF32 {
  using Weight = WindowedF32;
  using Input = float;
  using Value = float;
  using Word = std::uint32_t;
  using Window = const float*;
  using Positions = ShiftedWord<Word>;
  static constexpr PositionPacking kPacking = WINDOW == 16 ? kF32Window16 : kF32Window32;
  static constexpr int kDot = 1;
  static constexpr bool kFixedSteps = false;
  static constexpr int slices(int) { return 1; }

  static Window load(const float* p) { return p; }
  static Window load_part(const float* p, int n, float* spare) {
    return zero_filled<WINDOW>(p, n, spare);
  }
  static Positions load_positions(const Word* p) { return {p, 0}; }
  static Positions next_step(const Positions& p) { return {p.p, p.shift + kPacking.bits}; }
  template <int ROWS>
  static void accumulate_step(F16 (&acc)[ROWS], const Window (&x)[ROWS], const Positions& p,
                              const Value* values) {
    for (int i = 0; i < kLanes; ++i) {
      const int position = p.template at<WINDOW>(i);
      for (int r = 0; r < ROWS; ++r) acc[r].lane[i] += x[r][position] * values[i];
    }
  }
};
using GatherF32x16 = GatherF32<16>;
using GatherF32x32 = GatherF32<32>;

struct Bf16Environment {
  Bf16Environment() {}
};

// fma(x, v, sum) for x and v with at most 8 significant bits, a subnormal result flushed to zero.
// Such a product is exact in fp32 unless it over- or underflows; then the library's fma decides.
inline float add_bf16_product(float sum, float x, float v) {
  constexpr float kSmallest = std::numeric_limits<float>::min();
  constexpr float kLargest = std::numeric_limits<float>::max();
  const float product = x * v, magnitude = product < 0.0f ? -product : product;
  const bool exact = (magnitude >= kSmallest && magnitude <= kLargest) || x == 0.0f || v == 0.0f;
  const float result = exact ? sum + product : __builtin_fmaf(x, v, sum);
  return result < kSmallest && result > -kSmallest ? __builtin_copysignf(0.0f, result) : result;
}
inline float float_of_bf16(std::uint16_t bits) { return float_of(std::uint32_t{bits} << 16); }

struct GatherBf16 {
  using Weight = WindowedBf16;
  using Input = std::uint16_t;
  using Value = std::uint16_t;
  using Word = std::uint16_t;
  using Window = const std::uint16_t*;
  using Positions = ShiftedWord<Word>;
  static constexpr PositionPacking kPacking = kBf16Window32;
  static constexpr int kDot = 2;
  static constexpr bool kFixedSteps = false;
  static constexpr int slices(int) { return 1; }

  static Window load(const Input* p) { return p; }
  static Window load_part(const Input* p, int n, Input* spare) {
    return zero_filled<kPacking.window>(p, n, spare);
  }
  static Positions load_positions(const Word* p) { return {p, 0}; }
  static Positions next_step(const Positions& p) { return {p.p, p.shift + kPacking.bits}; }
  template <int ROWS>
  static void accumulate_step(F16 (&acc)[ROWS], const Window (&x)[ROWS], const Positions& p,
                              const Value* values) {
    for (int i = 0; i < kLanes; ++i) {
      for (int entry = 2 * i + 1; entry >= 2 * i; --entry) {
        const int position = p.template at<kPacking.window>(entry);
        const float v = float_of_bf16(values[entry]);
        for (int r = 0; r < ROWS; ++r) {
          acc[r].lane[i] = add_bf16_product(acc[r].lane[i], float_of_bf16(x[r][position]), v);
        }
      }
    }
  }
};

// Round to nearest even on the bits; subnormals become zero, NaN stays NaN and quiet.
inline void store_bf16(std::uint16_t* p, const F16& x) {
  for (int i = 0; i < 16; ++i) {
    const std::uint32_t bits = bits_of(x.lane[i]), magnitude = bits & 0x7FFFFFFFu;
    std::uint32_t result = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
    if (magnitude > 0x7F800000u) result = bits >> 16 | 0x40u;
    if (magnitude < 0x00800000u) result = bits >> 16 & 0x8000u;
    p[i] = static_cast<std::uint16_t>(result);
  }
}
