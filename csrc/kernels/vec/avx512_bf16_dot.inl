// AVX512_BF16: vdpbf16ps, which flushes subnormals and rounds to nearest whatever MXCSR says.

struct Bf16Environment {
  Bf16Environment() {}
};

constexpr bool kBf16FixedSteps = true;

using Bf16Pairs = __m512i;
inline Bf16Pairs split_pairs(__m512i v) { return v; }
// Inline assembly for the same reason as in avx512_vnni_dot.inl.
inline void dot_pairs(F16& acc, __m512i x, const Bf16Pairs& v) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(x), "v"(v));
}

// The instruction rounds to nearest even, keeps NaN quiet and takes subnormals as zero.
inline void store_bf16(std::uint16_t* p, F16 x) {
  const __m256bh rounded = _mm512_cvtneps_pbh(x);
  std::memcpy(p, &rounded, sizeof rounded);
}
