// The window as four quarters of 16 bytes, each broadcast to the four 128-bit lanes; vpshufb picks
// from one quarter, and gives 0 where bit 7 of the index is set. The index for quarter q is
// (p ^ 16 q) + 0x70 with unsigned saturation: 0x70..0x7F inside the quarter, 0x80 or more outside.
// Positions ascend in a lane, so with n:32 masks a step lies in one half and needs two quarters.

constexpr int kWindowedRows = 8, kWindowedSlices = 1, kDenseRows = 6, kDenseSlices = 4;
constexpr int kConvRows = kWindowedRows, kConvSlices = 1;

constexpr bool kWholeWindows = false;
constexpr bool kReluTiles = false;
constexpr bool kUniformSteps = true;
using Window = const std::uint8_t*;

inline Window load_window(const std::uint8_t* p, std::uint8_t*) { return p; }
inline Window load_window_part(const std::uint8_t* p, std::int64_t n, std::uint8_t* spare) {
  _mm512_storeu_si512(spare, _mm512_maskz_loadu_epi8(~__mmask64{0} >> (kWindow - n), p));
  return spare;
}

inline __m512i quarter(Window x, int q) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + 16 * q)));
}
inline __m512i index_in(__m512i positions, int q) {
  return _mm512_adds_epu8(_mm512_xor_si512(positions, _mm512_set1_epi8(static_cast<char>(16 * q))),
                          _mm512_set1_epi8(0x70));
}

template <int FIRST, int COUNT, int ROWS>
[[gnu::always_inline]] inline void accumulate_quarters(I16 (&acc)[ROWS], const Window (&x)[ROWS],
                                                       __m512i positions, __m512i values) {
  __m512i index[COUNT];
#pragma GCC unroll 4
  for (int q = 0; q < COUNT; ++q) index[q] = index_in(positions, FIRST + q);
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
    __m512i picked = _mm512_shuffle_epi8(quarter(x[r], FIRST), index[0]);
#pragma GCC unroll 4
    for (int q = 1; q < COUNT; ++q) {
      picked = _mm512_or_si512(picked, _mm512_shuffle_epi8(quarter(x[r], FIRST + q), index[q]));
    }
    dot(acc[r], picked, values);
  }
}

// Always inline: a call a step would keep the sums in memory.
template <int ROWS, int>
[[gnu::always_inline]] inline void accumulate_step(I16 (&acc)[ROWS], const Window (&x)[ROWS],
                                                   const std::uint8_t* positions,
                                                   const std::int8_t* values, unsigned quarters) {
  const __m512i p = _mm512_and_si512(_mm512_loadu_si512(positions), _mm512_set1_epi8(kWindow - 1));
  const __m512i v = _mm512_loadu_si512(values);
  if ((quarters & 0b1100u) == 0) {
    accumulate_quarters<0, 2>(acc, x, p, v);
  } else if ((quarters & 0b0011u) == 0) {
    accumulate_quarters<2, 2>(acc, x, p, v);
  } else {
    accumulate_quarters<0, 4>(acc, x, p, v);
  }
}
