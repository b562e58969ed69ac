// fp32 windows in registers: vpermps picks any 16 of 16 floats, vpermt2ps of 32 in two registers;
// both ignore the upper bits of an index, so a packed word needs no mask, only a shift a step.

struct GatherF32x16 {
  using Weight = WindowedF32;
  using Input = float;
  using Value = float;
  using Word = std::uint32_t;
  using Window = __m512;
  using Positions = __m512i;
  static constexpr PositionPacking kPacking = kF32Window16;
  static constexpr int kDot = 1;
  static constexpr bool kFixedSteps = true;
  // 8 chains hide the latency of the FMA; 16 + 8 + 4 registers are the most that fit.
  static constexpr int slices(int rows) { return rows <= 2 ? 4 : 2; }

  static Window load(const float* p) { return _mm512_loadu_ps(p); }
  static Window load_part(const float* p, int n, float*) {
    return _mm512_maskz_loadu_ps(first_lanes(n), p);
  }
  static Positions load_positions(const Word* p) { return _mm512_loadu_si512(p); }
  static Positions next_step(Positions p) { return _mm512_srli_epi32(p, kPacking.bits); }
  template <int ROWS>
  static void accumulate_step(F16 (&acc)[ROWS], const Window (&x)[ROWS], Positions p,
                              const Value* values) {
    const __m512 v = _mm512_loadu_ps(values);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      acc[r] = _mm512_fmadd_ps(_mm512_permutexvar_ps(p, x[r]), v, acc[r]);
    }
  }
};

struct GatherF32x32 {
  using Weight = WindowedF32;
  using Input = float;
  using Value = float;
  using Word = std::uint32_t;
  struct Window {
    __m512 low, high;
  };
  using Positions = __m512i;
  static constexpr PositionPacking kPacking = kF32Window32;
  static constexpr int kDot = 1;
  static constexpr bool kFixedSteps = true;
  // Two registers a row: 8 rows x 1 slice need 16 + 8.
  static constexpr int slices(int rows) { return rows <= 2 ? 4 : rows <= 4 ? 2 : 1; }

  static Window load(const float* p) { return {_mm512_loadu_ps(p), _mm512_loadu_ps(p + 16)}; }
  static Window load_part(const float* p, int n, float*) {
    if (n > 16) return {_mm512_loadu_ps(p), _mm512_maskz_loadu_ps(first_lanes(n - 16), p + 16)};
    return {_mm512_maskz_loadu_ps(first_lanes(n), p), _mm512_setzero_ps()};
  }
  static Positions load_positions(const Word* p) { return _mm512_loadu_si512(p); }
  static Positions next_step(Positions p) { return _mm512_srli_epi32(p, kPacking.bits); }
  template <int ROWS>
  static void accumulate_step(F16 (&acc)[ROWS], const Window (&x)[ROWS], Positions p,
                              const Value* values) {
    const __m512 v = _mm512_loadu_ps(values);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      acc[r] = _mm512_fmadd_ps(_mm512_permutex2var_ps(x[r].low, p, x[r].high), v, acc[r]);
    }
  }
};
