// What bodies/csr_f32.inl and bodies/transpose.inl need beside avx512.inl.

inline F16 multiply_add(F16 a, F16 b, F16 c) { return _mm512_fmadd_ps(a, b, c); }

using F4 = __m128;
inline F4 set_four(float x) { return _mm_set1_ps(x); }
inline F4 load_four(const float* p) { return _mm_loadu_ps(p); }
inline void store_four(float* p, F4 x) { _mm_storeu_ps(p, x); }
inline F4 multiply_add(F4 a, F4 b, F4 c) { return _mm_fmadd_ps(a, b, c); }
// Four loads: on AMD a gather of four takes longer.
template <class Index>
inline F4 pick_four(const float* p, const Index* index) {
  return _mm_setr_ps(p[index[0]], p[index[1]], p[index[2]], p[index[3]]);
}

constexpr int csr_outputs(int) { return 4; }  // up to 4 x 4 accumulators of 32 registers

// Three stages: pairs of rows, pairs of pairs, then quarters of 128 bits.
inline void transpose_block(const float* from, std::int64_t from_stride, float* to,
                            std::int64_t to_stride) {
  __m512 pairs[16], fours[16];
#pragma GCC unroll 8
  for (int r = 0; r < 16; r += 2) {
    const __m512 even = _mm512_loadu_ps(from + r * from_stride);
    const __m512 odd = _mm512_loadu_ps(from + (r + 1) * from_stride);
    pairs[r] = _mm512_unpacklo_ps(even, odd);
    pairs[r + 1] = _mm512_unpackhi_ps(even, odd);
  }
#pragma GCC unroll 4
  for (int r = 0; r < 16; r += 4) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m512d low = _mm512_castps_pd(pairs[r + half]);
      const __m512d high = _mm512_castps_pd(pairs[r + half + 2]);
      fours[r + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
      fours[r + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
    }
  }
  // Quarter q of fours[r + c] holds column 4 q + c of rows r..r + 3.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512 even_low = _mm512_shuffle_f32x4(fours[c], fours[4 + c], 0b10001000);
    const __m512 even_high = _mm512_shuffle_f32x4(fours[8 + c], fours[12 + c], 0b10001000);
    const __m512 odd_low = _mm512_shuffle_f32x4(fours[c], fours[4 + c], 0b11011101);
    const __m512 odd_high = _mm512_shuffle_f32x4(fours[8 + c], fours[12 + c], 0b11011101);
    float* column = to + c * to_stride;
    store_f(column, _mm512_shuffle_f32x4(even_low, even_high, 0b10001000));
    store_f(column + 4 * to_stride, _mm512_shuffle_f32x4(odd_low, odd_high, 0b10001000));
    store_f(column + 8 * to_stride, _mm512_shuffle_f32x4(even_low, even_high, 0b11011101));
    store_f(column + 12 * to_stride, _mm512_shuffle_f32x4(odd_low, odd_high, 0b11011101));
  }
}
