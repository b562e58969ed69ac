// 16 lanes in one zmm register: what all AVX-512 tables share (F, BW, VL, DQ).

using F16 = __m512;
using I16 = __m512i;

inline __mmask16 first_lanes(int n) { return static_cast<__mmask16>((1u << n) - 1u); }

inline F16 load_f(const float* p) { return _mm512_loadu_ps(p); }
inline F16 load_f_part(const float* p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
inline void store_f(float* p, F16 x) { _mm512_storeu_ps(p, x); }
inline void store_f_part(float* p, F16 x, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), x); }
inline F16 set_f(float x) { return _mm512_set1_ps(x); }
inline F16 add(F16 a, F16 b) { return _mm512_add_ps(a, b); }
inline F16 sub(F16 a, F16 b) { return _mm512_sub_ps(a, b); }
inline F16 mul(F16 a, F16 b) { return _mm512_mul_ps(a, b); }
inline F16 div(F16 a, F16 b) { return _mm512_div_ps(a, b); }
// max and min return their second operand when either is NaN, so x goes second.
inline F16 at_least(F16 x, F16 lo) { return _mm512_max_ps(lo, x); }
inline F16 at_most(F16 x, F16 hi) { return _mm512_min_ps(hi, x); }
inline F16 greater(F16 a, F16 b) {
  return _mm512_mask_mov_ps(_mm512_max_ps(b, a), _mm512_cmp_ps_mask(b, b, _CMP_UNORD_Q), b);
}
inline F16 zero_where_nan(F16 x) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, x, _CMP_ORD_Q), x);
}
inline F16 where_negative(F16 x, F16 yes, F16 no) {
  return _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(x)), no, yes);
}
inline I16 round_i(F16 x) { return _mm512_cvtps_epi32(x); }
inline F16 to_float(I16 x) { return _mm512_cvtepi32_ps(x); }
inline F16 power_of_two(I16 n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
}

inline I16 load_i(const std::int32_t* p) { return _mm512_loadu_si512(p); }
inline void store_i(std::int32_t* p, I16 x) { _mm512_storeu_si512(p, x); }
inline I16 set_i(std::int32_t x) { return _mm512_set1_epi32(x); }
inline I16 add_i(I16 a, I16 b) { return _mm512_add_epi32(a, b); }
inline I16 mul_i(I16 a, I16 b) { return _mm512_mullo_epi32(a, b); }
inline I16 max_i(I16 a, I16 b) { return _mm512_max_epi32(a, b); }
inline I16 absolute_bits(F16 x) {
  return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7FFFFFFF));
}
inline std::int32_t reduce_max(I16 x) { return _mm512_reduce_max_epi32(x); }

// Sums of up to 64 outputs, from which 16 are picked by place.
struct BlockI {
  I16 part[4];
};
struct BlockF {
  F16 part[4];
};
inline BlockI load_block(const std::int32_t* p, int vectors) {
  BlockI block;
#pragma GCC unroll 4
  for (int v = 0; v < 4; ++v) block.part[v] = v < vectors ? load_i(p + 16 * v) : set_i(0);
  return block;
}
inline BlockF load_block(const float* p, int vectors) {
  BlockF block;
#pragma GCC unroll 4
  for (int v = 0; v < 4; ++v) block.part[v] = v < vectors ? load_f(p + 16 * v) : set_f(0.0f);
  return block;
}
inline I16 load_places(const std::int32_t* places, int n) {
  return _mm512_maskz_loadu_epi32(first_lanes(n), places);
}
inline __mmask16 in_upper_half(I16 place) {
  return _mm512_test_epi32_mask(place, _mm512_set1_epi32(32));
}
// The permutes look at five bits of an index: a place among two registers.
inline I16 pick(const BlockI& from, I16 place) {
  return _mm512_mask_blend_epi32(in_upper_half(place),
                                 _mm512_permutex2var_epi32(from.part[0], place, from.part[1]),
                                 _mm512_permutex2var_epi32(from.part[2], place, from.part[3]));
}
inline F16 pick(const BlockF& from, I16 place) {
  return _mm512_mask_blend_ps(in_upper_half(place),
                              _mm512_permutex2var_ps(from.part[0], place, from.part[1]),
                              _mm512_permutex2var_ps(from.part[2], place, from.part[3]));
}

// The packs work inside 128-bit lanes; one permute of dwords puts the bytes in order.
inline void store_u8(std::uint8_t* p, I16 a, I16 b, I16 c, I16 d) {
  const __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
  const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  _mm512_storeu_si512(p, _mm512_permutexvar_epi32(order, bytes));
}

// 64 bytes, such as the packs make of 64 int32: they work inside 128-bit lanes, so vector q's lane
// 4 l + i becomes byte 16 l + 4 q + i.
using Bytes = __m512i;

inline __mmask64 first_bytes(int n) { return ~__mmask64{0} >> (64 - n); }
inline Bytes load_bytes(const std::uint8_t* p) { return _mm512_loadu_si512(p); }
inline Bytes load_bytes_part(const std::uint8_t* p, int n) {
  return _mm512_maskz_loadu_epi8(first_bytes(n), p);
}
inline Bytes zero_bytes() { return _mm512_setzero_si512(); }
inline Bytes max_bytes(Bytes a, Bytes b) { return _mm512_max_epu8(a, b); }
inline void store_bytes(std::uint8_t* p, Bytes x) { _mm512_storeu_si512(p, x); }
inline void store_bytes_part(std::uint8_t* p, Bytes x, int n) {
  _mm512_mask_storeu_epi8(p, first_bytes(n), x);
}

struct ByteRange {
  __m512i zero_point, low, high;  // 16-bit, 8-bit, 8-bit
};
inline ByteRange byte_range(std::int32_t zero_point, std::uint8_t low, std::uint8_t high) {
  return {_mm512_set1_epi16(static_cast<short>(zero_point)),
          _mm512_set1_epi8(static_cast<char>(low)), _mm512_set1_epi8(static_cast<char>(high))};
}
inline I16 round_wide(F16 x) { return _mm512_cvtps_epi32(x); }
inline Bytes pack_bytes(const I16 (&q)[4], const ByteRange& range) {
  const __m512i ab = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), range.zero_point);
  const __m512i cd = _mm512_adds_epi16(_mm512_packs_epi32(q[2], q[3]), range.zero_point);
  return _mm512_min_epu8(_mm512_max_epu8(_mm512_packus_epi16(ab, cd), range.low), range.high);
}
// The range of a relu, zero_point..255: an unsigned sum ends at 255 by itself.
struct ReluRange {
  __m512i zero_point;  // 8-bit
};
inline ReluRange relu_range(std::int32_t zero_point) {
  return {_mm512_set1_epi8(static_cast<char>(zero_point))};
}
inline Bytes pack_bytes(const I16 (&q)[4], const ReluRange& range) {
  const __m512i ab = _mm512_packs_epi32(q[0], q[1]), cd = _mm512_packs_epi32(q[2], q[3]);
  return _mm512_adds_epu8(_mm512_packus_epi16(ab, cd), range.zero_point);
}
inline Bytes in_order(Bytes packed) {
  const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  return _mm512_permutexvar_epi32(order, packed);
}
// mixed[q] lane 4 l + i holds byte 16 l + 4 q + i of each of the four.
inline void interleave(const Bytes (&x)[4], Bytes (&mixed)[4]) {
  const __m512i low01 = _mm512_unpacklo_epi8(x[0], x[1]), high01 = _mm512_unpackhi_epi8(x[0], x[1]);
  const __m512i low23 = _mm512_unpacklo_epi8(x[2], x[3]), high23 = _mm512_unpackhi_epi8(x[2], x[3]);
  mixed[0] = _mm512_unpacklo_epi16(low01, low23);
  mixed[1] = _mm512_unpackhi_epi16(low01, low23);
  mixed[2] = _mm512_unpacklo_epi16(high01, high23);
  mixed[3] = _mm512_unpackhi_epi16(high01, high23);
}
inline void store_interleaved(std::int32_t* p, const I16 (&x)[4]) {
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {
    auto* to = reinterpret_cast<__m128i*>(p + 4 * q);
    _mm_storeu_si128(to, _mm512_extracti32x4_epi32(x[q], 0));
    _mm_storeu_si128(to + 4, _mm512_extracti32x4_epi32(x[q], 1));
    _mm_storeu_si128(to + 8, _mm512_extracti32x4_epi32(x[q], 2));
    _mm_storeu_si128(to + 12, _mm512_extracti32x4_epi32(x[q], 3));
  }
}

// Up to eight row pointers: lanes begin..end get base + offset, base + offset + step, ..., the
// others `outside`.
inline void store_pointers(const std::uint8_t** to, int n, const std::uint8_t* base,
                           std::int64_t offset, std::int64_t step, int begin, int end,
                           const std::uint8_t* outside) {
  const __m512i lanes = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i first = _mm512_set1_epi64(reinterpret_cast<long long>(base) + offset);
  const __m512i inside =
      _mm512_add_epi64(first, _mm512_mullo_epi64(lanes, _mm512_set1_epi64(step)));
  const auto mask = static_cast<__mmask8>((0xFFu << begin) & (0xFFu >> (8 - end)));
  const __m512i all =
      _mm512_mask_mov_epi64(_mm512_set1_epi64(reinterpret_cast<long long>(outside)), mask, inside);
  _mm512_mask_storeu_epi64(to, static_cast<__mmask8>(0xFFu >> (8 - n)), all);
}

inline I16 load_u8(const std::uint8_t* p, int n) {
  return _mm512_cvtepu8_epi32(n == 16 ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(p))
                                      : _mm_maskz_loadu_epi8(first_lanes(n), p));
}

using DenseW = __m512i;
inline DenseW load_dense(const std::int8_t* p) { return _mm512_loadu_si512(p); }
