// The window in one register: vpermb picks any 64 of its bytes.

constexpr int kWindowedRows = 8, kWindowedSlices = 2, kDenseRows = 6, kDenseSlices = 4;

using Window = __m512i;

inline Window load_window(const std::uint8_t* p) { return _mm512_loadu_si512(p); }
inline Window load_window_part(const std::uint8_t* p, std::int64_t n, std::uint8_t*) {
  return _mm512_maskz_loadu_epi8(~__mmask64{0} >> (kWindow - n), p);
}

template <int ROWS>
inline void accumulate_step(I16 (&acc)[ROWS], const Window (&x)[ROWS],
                            const std::uint8_t* positions, const std::int8_t* values, unsigned) {
  const __m512i p = _mm512_loadu_si512(positions);
  const __m512i v = _mm512_loadu_si512(values);
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) dot(acc[r], _mm512_permutexvar_epi8(p, x[r]), v);
}
