// What the two AVX-512 forms of the bf16 step share: vpermw picks any 32 of 32 bf16 and ignores the
// upper bits of an index.

struct GatherBf16 {
  using Weight = WindowedBf16;
  using Input = std::uint16_t;
  using Value = std::uint16_t;
  using Word = std::uint16_t;
  using Window = __m512i;
  using Positions = __m512i;
  static constexpr PositionPacking kPacking = kBf16Window32;
  static constexpr int kDot = 2;
  static constexpr bool kFixedSteps = kBf16FixedSteps;
  static constexpr int slices(int rows) { return rows <= 2 ? 4 : 2; }

  static Window load(const Input* p) { return _mm512_loadu_si512(p); }
  static Window load_part(const Input* p, int n, Input*) {
    return _mm512_maskz_loadu_epi16(~__mmask32{0} >> (kPacking.window - n), p);
  }
  static Positions load_positions(const Word* p) { return _mm512_loadu_si512(p); }
  static Positions next_step(Positions p) { return _mm512_srli_epi16(p, kPacking.bits); }
  template <int ROWS>
  static void accumulate_step(F16 (&acc)[ROWS], const Window (&x)[ROWS], Positions p,
                              const Value* values) {
    const Bf16Pairs v = split_pairs(_mm512_loadu_si512(values));
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) dot_pairs(acc[r], _mm512_permutexvar_epi16(p, x[r]), v);
  }
};
