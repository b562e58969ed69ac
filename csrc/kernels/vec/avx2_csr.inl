// What bodies/csr_f32.inl and bodies/transpose.inl need beside avx2.inl.

inline F16 multiply_add(const F16& a, const F16& b, const F16& c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}

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

// 8 accumulators of 16 registers hide the latency; three vectors leave room for one output.
constexpr int csr_outputs(int vectors) { return 4 / vectors; }

// Three stages: pairs of rows, pairs of pairs, then halves of 128 bits.
inline void transpose_eight(const float* from, std::int64_t from_stride, float* to,
                            std::int64_t to_stride) {
  __m256 pairs[8], fours[8];
#pragma GCC unroll 4
  for (int r = 0; r < 8; r += 2) {
    const __m256 even = _mm256_loadu_ps(from + r * from_stride);
    const __m256 odd = _mm256_loadu_ps(from + (r + 1) * from_stride);
    pairs[r] = _mm256_unpacklo_ps(even, odd);
    pairs[r + 1] = _mm256_unpackhi_ps(even, odd);
  }
#pragma GCC unroll 2
  for (int r = 0; r < 8; r += 4) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      fours[r + 2 * half] = _mm256_shuffle_ps(pairs[r + half], pairs[r + half + 2], 0b01000100);
      fours[r + 2 * half + 1] = _mm256_shuffle_ps(pairs[r + half], pairs[r + half + 2], 0b11101110);
    }
  }
  // Half h of fours[r + c] holds column 4 h + c of rows r..r + 3.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    float* column = to + c * to_stride;
    _mm256_storeu_ps(column, _mm256_permute2f128_ps(fours[c], fours[4 + c], 0x20));
    _mm256_storeu_ps(column + 4 * to_stride, _mm256_permute2f128_ps(fours[c], fours[4 + c], 0x31));
  }
}
inline void transpose_block(const float* from, std::int64_t from_stride, float* to,
                            std::int64_t to_stride) {
  for (int r = 0; r < 16; r += 8) {
    for (int c = 0; c < 16; c += 8) {
      transpose_eight(from + r * from_stride + c, from_stride, to + c * to_stride + r, to_stride);
    }
  }
}
