// u8 x s8 dot products of four without VNNI. vpmaddubsw saturates its 16-bit pair sums, so it gets
// |x| (at most 128, with x = u - 128) and w with the sign of x (-127..127): a pair sum is at most
// 2 * 128 * 127 = 32512 and exact. Hence kInputOffset.

constexpr std::int32_t kInputOffset = 128;

struct Quad {
  __m512i magnitude;
  __mmask64 negative;
};

inline Quad split_sign(__m512i u) {
  const __m512i x = _mm512_xor_si512(u, _mm512_set1_epi8(-128));
  return {_mm512_abs_epi8(x), _mm512_movepi8_mask(x)};
}
inline void dense_dot(I16& acc, const Quad& x, DenseW w) {
  const __m512i signed_w = _mm512_mask_sub_epi8(w, x.negative, _mm512_setzero_si512(), w);
  const __m512i pairs = _mm512_maddubs_epi16(x.magnitude, signed_w);
  acc = _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
inline void dot(I16& acc, __m512i x, __m512i w) { dense_dot(acc, split_sign(x), w); }
inline Quad broadcast_quad(std::uint32_t four_bytes) {
  return split_sign(_mm512_set1_epi32(static_cast<std::int32_t>(four_bytes)));
}
