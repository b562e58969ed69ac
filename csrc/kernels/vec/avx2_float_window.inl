// Float windows for AVX2: vpermps picks from 8 dwords, so a window of 16 takes two of them and one
// blend by bit 3 of the index, a window of 32 four and three. Windows stay in memory, from where
// vpermps reads them.

inline __m256 load_eight(const float* p) { return _mm256_loadu_ps(p); }
// Bit `bit` of every index as the sign, which is what a blend looks at.
inline __m256 blend_mask(__m256i index, int bit) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(index, 31 - bit));
}
// 8 of the 16 floats at p.
inline __m256 pick_of_16(const float* p, __m256i index, __m256 bit3) {
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(load_eight(p), index),
                          _mm256_permutevar8x32_ps(load_eight(p + 8), index), bit3);
}

template <int WINDOW>
struct GatherF32 {
  using Weight = WindowedF32;
  using Input = float;
  using Value = float;
  using Word = std::uint32_t;
  using Window = const float*;
  using Positions = I16;
  static constexpr PositionPacking kPacking = WINDOW == 16 ? kF32Window16 : kF32Window32;
  static constexpr int kDot = 1;
  static constexpr bool kFixedSteps = false;
  static constexpr int slices(int rows) { return rows == 1 ? 2 : 1; }

  static Window load(const float* p) { return p; }
  static Window load_part(const float* p, int n, float* spare) {
    return zero_filled<WINDOW>(p, n, spare);
  }
  static Positions load_positions(const Word* p) { return {load_256(p), load_256(p + 8)}; }
  static Positions next_step(const Positions& p) {
    return {_mm256_srli_epi32(p.low, kPacking.bits), _mm256_srli_epi32(p.high, kPacking.bits)};
  }
  static __m256 pick(const float* p, __m256i index, __m256 bit3, __m256 bit4) {
    const __m256 lower = pick_of_16(p, index, bit3);
    if constexpr (WINDOW == 16) return lower;
    return _mm256_blendv_ps(lower, pick_of_16(p + 16, index, bit3), bit4);
  }
  template <int ROWS>
  static void accumulate_step(F16 (&acc)[ROWS], const Window (&x)[ROWS], const Positions& p,
                              const Value* values) {
    const __m256 low3 = blend_mask(p.low, 3), low4 = blend_mask(p.low, 4);
    const __m256 low = load_eight(values);
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) {
      acc[r].low = _mm256_fmadd_ps(pick(x[r], p.low, low3, low4), low, acc[r].low);
    }
    const __m256 high3 = blend_mask(p.high, 3), high4 = blend_mask(p.high, 4);
    const __m256 high = load_eight(values + 8);
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) {
      acc[r].high = _mm256_fmadd_ps(pick(x[r], p.high, high3, high4), high, acc[r].high);
    }
  }
};
using GatherF32x16 = GatherF32<16>;
using GatherF32x32 = GatherF32<32>;

// bf16: an entry is picked as the dword it lies in, by the upper four bits of its position; the
// lowest bit says which half. fp32 FMAs with subnormals flushed, odd entry first: see
// bodies/windowed_bf16.inl.
using Bf16Environment = FlushSubnormals;

struct GatherBf16 {
  using Weight = WindowedBf16;
  using Input = std::uint16_t;
  using Value = std::uint16_t;
  using Word = std::uint16_t;
  using Window = const std::uint16_t*;
  using Positions = I16;
  static constexpr PositionPacking kPacking = kBf16Window32;
  static constexpr int kDot = 2;
  static constexpr bool kFixedSteps = false;
  static constexpr int slices(int) { return 1; }

  static Window load(const Input* p) { return p; }
  static Window load_part(const Input* p, int n, Input* spare) {
    return zero_filled<kPacking.window>(p, n, spare);
  }
  static Positions load_positions(const Word* p) { return {load_256(p), load_256(p + 16)}; }
  static Positions next_step(const Positions& p) {
    return {_mm256_srli_epi16(p.low, kPacking.bits), _mm256_srli_epi16(p.high, kPacking.bits)};
  }
  static __m256 upper_half(__m256i dwords) {
    return _mm256_castsi256_ps(_mm256_and_si256(dwords, _mm256_set1_epi32(-65536)));
  }
  // position and value: those of one entry, the value in the upper half.
  template <bool HIGH, int ROWS>
  static void accumulate_entry(F16 (&acc)[ROWS], const Window (&x)[ROWS], __m256i position,
                               __m256i value) {
    const __m256i index = _mm256_srli_epi32(position, 1);
    const __m256 bit3 = blend_mask(index, 3), v = upper_half(value);
    const __m256i sixteen = _mm256_set1_epi32(16);
    const __m256i shift = _mm256_andnot_si256(_mm256_slli_epi32(position, 4), sixteen);
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) {
      const __m256 dwords = pick_of_16(reinterpret_cast<const float*>(x[r]), index, bit3);
      const __m256 picked = upper_half(_mm256_sllv_epi32(_mm256_castps_si256(dwords), shift));
      __m256& sum = HIGH ? acc[r].high : acc[r].low;
      sum = _mm256_fmadd_ps(picked, v, sum);
    }
  }
  template <int ROWS>
  static void accumulate_step(F16 (&acc)[ROWS], const Window (&x)[ROWS], const Positions& p,
                              const Value* values) {
    const __m256i low = load_256(values), high = load_256(values + 16);
    accumulate_entry<false>(acc, x, _mm256_srli_epi32(p.low, 16), low);
    accumulate_entry<false>(acc, x, p.low, _mm256_slli_epi32(low, 16));
    accumulate_entry<true>(acc, x, _mm256_srli_epi32(p.high, 16), high);
    accumulate_entry<true>(acc, x, p.high, _mm256_slli_epi32(high, 16));
  }
};

// Round to nearest even on the bits; subnormals become zero, NaN stays NaN and quiet. The result of
// 8 lanes as dwords in 0..65535.
inline __m256i bf16_bits(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i upper = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
  const __m256i half = _mm256_add_epi32(_mm256_set1_epi32(0x7FFF), odd);
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, half), 16);
  const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i exponent = _mm256_and_si256(bits, _mm256_set1_epi32(0x7F800000));
  const __m256i tiny = _mm256_cmpeq_epi32(exponent, _mm256_setzero_si256());
  const __m256i sign = _mm256_and_si256(upper, _mm256_set1_epi32(0x8000));
  return _mm256_blendv_epi8(_mm256_blendv_epi8(rounded, quiet, is_nan), sign, tiny);
}
inline void store_bf16(std::uint16_t* p, const F16& x) {
  const __m256i words = _mm256_packus_epi32(bf16_bits(x.low), bf16_bits(x.high));
  store_256(p, _mm256_permute4x64_epi64(words, 0b11011000));  // the packs work inside halves
}
