// The window as four quarters, as in avx512_vpshufb_window.inl (see there), of 16 outputs in two
// registers. There are 16 registers, so the steps of a window run twice, once for each half of the
// lanes: the sums of eight rows in registers, and each index made for eight rows at once.

using Window = const std::uint8_t*;

// A copy of x - 128, which serves the steps of both halves: the sign is taken off once for all.
inline Window load_window(const std::uint8_t* p, std::uint8_t* spare) {
  const __m256i offset = _mm256_set1_epi8(-128);
  store_256(spare, _mm256_xor_si256(load_256(p), offset));
  store_256(spare + 32, _mm256_xor_si256(load_256(p + 32), offset));
  return spare;
}
inline Window load_window_part(const std::uint8_t* p, std::int64_t n, std::uint8_t* spare) {
  store_256(spare, _mm256_setzero_si256());
  store_256(spare + 32, _mm256_setzero_si256());
  std::memcpy(spare, p, static_cast<std::size_t>(n));
  return load_window(spare, spare);
}

inline __m256i index_in(__m256i positions, int q) {
  return _mm256_adds_epu8(_mm256_xor_si256(positions, _mm256_set1_epi8(static_cast<char>(16 * q))),
                          _mm256_set1_epi8(0x70));
}

// One step for half of the lanes, which finds all its inputs in COUNT quarters. A row is one
// statement of assembly: gcc would mix the rows and run out of registers.
template <int FIRST, int COUNT, int ROWS>
[[gnu::always_inline]] inline void accumulate_quarters(__m256i (&acc)[ROWS],
                                                       const Window (&x)[ROWS], __m256i positions,
                                                       __m256i values) {
  __m256i index[COUNT];
#pragma GCC unroll 4
  for (int q = 0; q < COUNT; ++q) index[q] = index_in(positions, FIRST + q);
  const __m256i one = _mm256_set1_epi16(1);
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
    const auto* quarters = reinterpret_cast<const __m128i*>(x[r]) + FIRST;
    __m256i a, b;
    if constexpr (COUNT == 2) {
      asm("vbroadcasti128 %[x0], %[a]\n\t"
          "vbroadcasti128 %[x1], %[b]\n\t"
          "vpshufb %[index0], %[a], %[a]\n\t"
          "vpshufb %[index1], %[b], %[b]\n\t"
          "vpor %[a], %[b], %[a]\n\t"
          "vpabsb %[a], %[b]\n\t"
          "vpsignb %[a], %[values], %[a]\n\t"
          "vpmaddubsw %[a], %[b], %[b]\n\t"
          "vpmaddwd %[one], %[b], %[b]\n\t"
          "vpaddd %[b], %[acc], %[acc]"
          : [acc] "+x"(acc[r]), [a] "=&x"(a), [b] "=&x"(b)
          : [x0] "m"(quarters[0]), [x1] "m"(quarters[1]), [index0] "x"(index[0]),
            [index1] "x"(index[1]), [values] "x"(values), [one] "xm"(one));
    } else {
      asm("vbroadcasti128 %[x0], %[a]\n\t"
          "vbroadcasti128 %[x1], %[b]\n\t"
          "vpshufb %[index0], %[a], %[a]\n\t"
          "vpshufb %[index1], %[b], %[b]\n\t"
          "vpor %[a], %[b], %[a]\n\t"
          "vbroadcasti128 %[x2], %[b]\n\t"
          "vpshufb %[index2], %[b], %[b]\n\t"
          "vpor %[a], %[b], %[a]\n\t"
          "vbroadcasti128 %[x3], %[b]\n\t"
          "vpshufb %[index3], %[b], %[b]\n\t"
          "vpor %[a], %[b], %[a]\n\t"
          "vpabsb %[a], %[b]\n\t"
          "vpsignb %[a], %[values], %[a]\n\t"
          "vpmaddubsw %[a], %[b], %[b]\n\t"
          "vpmaddwd %[one], %[b], %[b]\n\t"
          "vpaddd %[b], %[acc], %[acc]"
          : [acc] "+x"(acc[r]), [a] "=&x"(a), [b] "=&x"(b)
          : [x0] "m"(quarters[0]), [x1] "m"(quarters[1]), [x2] "m"(quarters[2]),
            [x3] "m"(quarters[3]), [index0] "xm"(index[0]), [index1] "xm"(index[1]),
            [index2] "xm"(index[2]), [index3] "xm"(index[3]), [values] "x"(values),
            [one] "xm"(one));
    }
  }
}

template <int ROWS>
[[gnu::always_inline]] inline void accumulate_half_step(__m256i (&acc)[ROWS],
                                                        const Window (&x)[ROWS],
                                                        const std::uint8_t* positions,
                                                        const std::int8_t* values,
                                                        unsigned quarters) {
  const __m256i p = _mm256_and_si256(load_256(positions), _mm256_set1_epi8(kWindow - 1));
  const __m256i v = load_256(values);
  if ((quarters & 0b1100u) == 0) {
    accumulate_quarters<0, 2>(acc, x, p, v);
  } else if ((quarters & 0b0011u) == 0) {
    accumulate_quarters<2, 2>(acc, x, p, v);
  } else {
    accumulate_quarters<0, 4>(acc, x, p, v);
  }
}

constexpr bool kWholeWindows = true;
constexpr bool kReluTiles = false;
constexpr bool kUniformSteps = false;
template <int, int>
void accumulate_step();  // a name for the body, which takes whole windows here

// Always inline: a call would keep the sums in memory.
template <int ROWS>
[[gnu::always_inline]] inline void accumulate_steps(I16 (&acc)[ROWS], const Window (&x)[ROWS],
                                                    const std::uint8_t* positions,
                                                    const std::int8_t* values,
                                                    const std::uint8_t* quarters, int count) {
  __m256i low[ROWS], high[ROWS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
    low[r] = acc[r].low;
    high[r] = acc[r].high;
  }
  if constexpr (ROWS <= 4) {  // the sums of both halves fit
#pragma GCC unroll 1
    for (int step = 0; step < count; ++step) {
      accumulate_half_step(low, x, positions + 64 * step, values + 64 * step, quarters[step]);
      accumulate_half_step(high, x, positions + 64 * step + 32, values + 64 * step + 32,
                           quarters[step]);
    }
  } else {
#pragma GCC unroll 1
    for (int step = 0; step < count; ++step) {
      accumulate_half_step(low, x, positions + 64 * step, values + 64 * step, quarters[step]);
    }
#pragma GCC unroll 1
    for (int step = 0; step < count; ++step) {
      accumulate_half_step(high, x, positions + 64 * step + 32, values + 64 * step + 32,
                           quarters[step]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) acc[r] = {low[r], high[r]};
}
