// u8 x s8 dot products of four with vpdpbusd, which wraps and never saturates.

constexpr std::int32_t kInputOffset = 0;

// One instruction of inline assembly: gcc 12 copies the accumulator before and after the intrinsic
// in rolled loops (the operand is destructive), which costs up to half of the speed.
inline void dot(I16& acc, __m512i x, __m512i w) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
}

using Quad = __m512i;
inline Quad broadcast_quad(std::uint32_t four_bytes) {
  return _mm512_set1_epi32(static_cast<std::int32_t>(four_bytes));
}
inline void dense_dot(I16& acc, Quad x, DenseW w) { dot(acc, x, w); }
