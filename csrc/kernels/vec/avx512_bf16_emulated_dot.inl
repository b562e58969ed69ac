// vdpbf16ps with fp32 FMAs: a bf16 is the upper half of an fp32.

using Bf16Environment = FlushSubnormals;

constexpr bool kBf16FixedSteps = false;

struct Bf16Pairs {
  __m512 even, odd;
};
inline Bf16Pairs split_pairs(__m512i v) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(v, 16)),
          _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(-65536)))};
}
inline void dot_pairs(F16& acc, __m512i picked, const Bf16Pairs& v) {
  const Bf16Pairs x = split_pairs(picked);
  acc = _mm512_fmadd_ps(x.even, v.even, _mm512_fmadd_ps(x.odd, v.odd, acc));
}

// Round to nearest even on the bits; subnormals become zero, NaN stays NaN and quiet.
inline void store_bf16(std::uint16_t* p, F16 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i upper = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
  const __m512i half = _mm512_add_epi32(_mm512_set1_epi32(0x7FFF), odd);
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, half), 16);
  const __m512i quiet = _mm512_or_si512(upper, _mm512_set1_epi32(0x40));
  const __m512i sign = _mm512_and_si512(upper, _mm512_set1_epi32(0x8000));
  __m512i result = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), quiet);
  const __mmask16 tiny = _mm512_testn_epi32_mask(bits, _mm512_set1_epi32(0x7F800000));
  result = _mm512_mask_mov_epi32(result, tiny, sign);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(result));
}
