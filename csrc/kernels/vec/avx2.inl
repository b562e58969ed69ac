// 16 lanes in two ymm registers, AVX2 without VNNI. The dot product is that of
// avx512_maddubs_dot.inl; see there.

struct F16 {
  __m256 low, high;
};
struct I16 {
  __m256i low, high;
};

// All ones in the first n of 8 lanes.
inline __m256i first_lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline F16 load_f(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline F16 load_f_part(const float* p, int n) {
  return {_mm256_maskload_ps(p, first_lanes(n)), _mm256_maskload_ps(p + 8, first_lanes(n - 8))};
}
inline void store_f(float* p, const F16& x) {
  _mm256_storeu_ps(p, x.low);
  _mm256_storeu_ps(p + 8, x.high);
}
inline void store_f_part(float* p, const F16& x, int n) {
  _mm256_maskstore_ps(p, first_lanes(n), x.low);
  _mm256_maskstore_ps(p + 8, first_lanes(n - 8), x.high);
}
inline F16 set_f(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F16 add(const F16& a, const F16& b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline F16 sub(const F16& a, const F16& b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline F16 mul(const F16& a, const F16& b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline F16 div(const F16& a, const F16& b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
// max and min return their second operand when either is NaN, so x goes second.
inline F16 at_least(const F16& x, const F16& lo) {
  return {_mm256_max_ps(lo.low, x.low), _mm256_max_ps(lo.high, x.high)};
}
inline F16 at_most(const F16& x, const F16& hi) {
  return {_mm256_min_ps(hi.low, x.low), _mm256_min_ps(hi.high, x.high)};
}
inline __m256 greater_half(__m256 a, __m256 b) {
  return _mm256_blendv_ps(_mm256_max_ps(b, a), b, _mm256_cmp_ps(b, b, _CMP_UNORD_Q));
}
inline F16 greater(const F16& a, const F16& b) {
  return {greater_half(a.low, b.low), greater_half(a.high, b.high)};
}
inline F16 zero_where_nan(const F16& x) {
  return {_mm256_and_ps(x.low, _mm256_cmp_ps(x.low, x.low, _CMP_ORD_Q)),
          _mm256_and_ps(x.high, _mm256_cmp_ps(x.high, x.high, _CMP_ORD_Q))};
}
inline F16 where_negative(const F16& x, const F16& yes, const F16& no) {
  return {_mm256_blendv_ps(no.low, yes.low, x.low), _mm256_blendv_ps(no.high, yes.high, x.high)};
}
inline I16 round_i(const F16& x) { return {_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high)}; }
inline F16 to_float(const I16& x) {
  return {_mm256_cvtepi32_ps(x.low), _mm256_cvtepi32_ps(x.high)};
}
inline F16 power_of_two(const I16& n) {
  const __m256i bias = _mm256_set1_epi32(127);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.low, bias), 23)),
          _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.high, bias), 23))};
}

inline __m256i load_256(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
inline void store_256(void* p, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
inline I16 load_i(const std::int32_t* p) { return {load_256(p), load_256(p + 8)}; }
inline void store_i(std::int32_t* p, const I16& x) {
  store_256(p, x.low);
  store_256(p + 8, x.high);
}
inline I16 set_i(std::int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline I16 add_i(const I16& a, const I16& b) {
  return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
inline I16 mul_i(const I16& a, const I16& b) {
  return {_mm256_mullo_epi32(a.low, b.low), _mm256_mullo_epi32(a.high, b.high)};
}
inline I16 max_i(const I16& a, const I16& b) {
  return {_mm256_max_epi32(a.low, b.low), _mm256_max_epi32(a.high, b.high)};
}
inline I16 absolute_bits(const F16& x) {
  const __m256i mask = _mm256_set1_epi32(0x7FFFFFFF);
  return {_mm256_and_si256(_mm256_castps_si256(x.low), mask),
          _mm256_and_si256(_mm256_castps_si256(x.high), mask)};
}
inline std::int32_t reduce_max(const I16& x) {
  const __m256i eight = _mm256_max_epi32(x.low, x.high);
  __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0b01001110));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0b10110001));
  return _mm_cvtsi128_si32(four);
}

// Sums of up to 64 outputs, from which 16 are picked by place.
inline const std::int32_t* load_block(const std::int32_t* p, int) { return p; }
inline const float* load_block(const float* p, int) { return p; }
inline I16 load_places(const std::int32_t* places, int n) {
  return {_mm256_maskload_epi32(places, first_lanes(n)),
          _mm256_maskload_epi32(places + 8, first_lanes(n - 8))};
}
inline I16 pick(const std::int32_t* from, const I16& place) {
  return {_mm256_i32gather_epi32(from, place.low, 4), _mm256_i32gather_epi32(from, place.high, 4)};
}
inline F16 pick(const float* from, const I16& place) {
  return {_mm256_i32gather_ps(from, place.low, 4), _mm256_i32gather_ps(from, place.high, 4)};
}

// 32 int32 to 32 bytes; the packs work inside 128-bit lanes, one permute puts dwords in order.
inline __m256i pack_u8(const I16& a, const I16& b) {
  const __m256i bytes =
      _mm256_packus_epi16(_mm256_packs_epi32(a.low, a.high), _mm256_packs_epi32(b.low, b.high));
  return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
inline void store_u8(std::uint8_t* p, const I16& a, const I16& b, const I16& c, const I16& d) {
  store_256(p, pack_u8(a, b));
  store_256(p + 32, pack_u8(c, d));
}

// 64 bytes; avx512.inl says how they stand beside 64 int32. Vector q's 128-bit lanes 0 and 1 are in
// its lower half, so the packs of the lower halves give the lower 32 bytes.
struct Bytes {
  __m256i low, high;
};

inline Bytes load_bytes(const std::uint8_t* p) { return {load_256(p), load_256(p + 32)}; }
inline Bytes zero_bytes() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline Bytes max_bytes(const Bytes& a, const Bytes& b) {
  return {_mm256_max_epu8(a.low, b.low), _mm256_max_epu8(a.high, b.high)};
}
inline Bytes load_bytes_part(const std::uint8_t* p, int n) {
  alignas(32) std::uint8_t bytes[64] = {};
  std::memcpy(bytes, p, static_cast<std::size_t>(n));
  return load_bytes(bytes);
}
inline void store_bytes(std::uint8_t* p, const Bytes& x) {
  store_256(p, x.low);
  store_256(p + 32, x.high);
}
inline void store_bytes_part(std::uint8_t* p, const Bytes& x, int n) {
  alignas(32) std::uint8_t bytes[64];
  store_bytes(bytes, x);
  std::memcpy(p, bytes, static_cast<std::size_t>(n));
}

struct ByteRange {
  __m256i zero_point, low, high;
};
inline ByteRange byte_range(std::int32_t zero_point, std::uint8_t low, std::uint8_t high) {
  return {_mm256_set1_epi16(static_cast<short>(zero_point)),
          _mm256_set1_epi8(static_cast<char>(low)), _mm256_set1_epi8(static_cast<char>(high))};
}
inline I16 round_wide(const F16& x) { return round_i(x); }
inline __m256i pack_half(__m256i a, __m256i b, __m256i c, __m256i d, const ByteRange& range) {
  const __m256i ab = _mm256_adds_epi16(_mm256_packs_epi32(a, b), range.zero_point);
  const __m256i cd = _mm256_adds_epi16(_mm256_packs_epi32(c, d), range.zero_point);
  return _mm256_min_epu8(_mm256_max_epu8(_mm256_packus_epi16(ab, cd), range.low), range.high);
}
inline Bytes pack_bytes(const I16 (&q)[4], const ByteRange& range) {
  return {pack_half(q[0].low, q[1].low, q[2].low, q[3].low, range),
          pack_half(q[0].high, q[1].high, q[2].high, q[3].high, range)};
}
// The range of a relu, zero_point..255: an unsigned sum ends at 255 by itself.
struct ReluRange {
  __m256i zero_point;  // 8-bit
};
inline ReluRange relu_range(std::int32_t zero_point) {
  return {_mm256_set1_epi8(static_cast<char>(zero_point))};
}
inline __m256i pack_half(__m256i a, __m256i b, __m256i c, __m256i d, const ReluRange& range) {
  const __m256i ab = _mm256_packs_epi32(a, b), cd = _mm256_packs_epi32(c, d);
  return _mm256_adds_epu8(_mm256_packus_epi16(ab, cd), range.zero_point);
}
inline Bytes pack_bytes(const I16 (&q)[4], const ReluRange& range) {
  return {pack_half(q[0].low, q[1].low, q[2].low, q[3].low, range),
          pack_half(q[0].high, q[1].high, q[2].high, q[3].high, range)};
}
inline Bytes in_order(const Bytes& packed) {
  // The 8 bytes of each vector in either half, then those of both halves side by side.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i low = _mm256_permutevar8x32_epi32(packed.low, order);
  const __m256i high = _mm256_permutevar8x32_epi32(packed.high, order);
  const __m256i even = _mm256_unpacklo_epi64(low, high), odd = _mm256_unpackhi_epi64(low, high);
  return {_mm256_permute2x128_si256(even, odd, 0x20), _mm256_permute2x128_si256(even, odd, 0x31)};
}
inline void interleave_half(__m256i a, __m256i b, __m256i c, __m256i d, __m256i (&mixed)[4]) {
  const __m256i low_ab = _mm256_unpacklo_epi8(a, b), high_ab = _mm256_unpackhi_epi8(a, b);
  const __m256i low_cd = _mm256_unpacklo_epi8(c, d), high_cd = _mm256_unpackhi_epi8(c, d);
  mixed[0] = _mm256_unpacklo_epi16(low_ab, low_cd);
  mixed[1] = _mm256_unpackhi_epi16(low_ab, low_cd);
  mixed[2] = _mm256_unpacklo_epi16(high_ab, high_cd);
  mixed[3] = _mm256_unpackhi_epi16(high_ab, high_cd);
}
inline void interleave(const Bytes (&x)[4], Bytes (&mixed)[4]) {
  __m256i low[4], high[4];
  interleave_half(x[0].low, x[1].low, x[2].low, x[3].low, low);
  interleave_half(x[0].high, x[1].high, x[2].high, x[3].high, high);
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) mixed[q] = {low[q], high[q]};
}
inline void store_interleaved(std::int32_t* p, const I16 (&x)[4]) {
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {
    auto* to = reinterpret_cast<__m128i*>(p + 4 * q);
    _mm_storeu_si128(to, _mm256_castsi256_si128(x[q].low));
    _mm_storeu_si128(to + 4, _mm256_extracti128_si256(x[q].low, 1));
    _mm_storeu_si128(to + 8, _mm256_castsi256_si128(x[q].high));
    _mm_storeu_si128(to + 12, _mm256_extracti128_si256(x[q].high, 1));
  }
}

inline I16 load_u8(const std::uint8_t* p, int n) {
  alignas(16) std::uint8_t bytes[16] = {};
  if (n < 16) p = static_cast<std::uint8_t*>(std::memcpy(bytes, p, static_cast<std::size_t>(n)));
  const __m128i all = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepu8_epi32(all), _mm256_cvtepu8_epi32(_mm_srli_si128(all, 8))};
}

constexpr std::int32_t kInputOffset = 128;
constexpr int kWindowedRows = 8, kWindowedSlices = 1, kDenseRows = 2, kDenseSlices = 2;
constexpr int kConvRows = kWindowedRows, kConvSlices = 1;

struct Quad {
  __m256i x, magnitude;
};
using DenseW = I16;

inline Quad split_sign(__m256i u) {
  const __m256i x = _mm256_xor_si256(u, _mm256_set1_epi8(-128));
  return {x, _mm256_abs_epi8(x)};
}
inline __m256i dot_half(__m256i acc, const Quad& x, __m256i w) {
  const __m256i pairs = _mm256_maddubs_epi16(x.magnitude, _mm256_sign_epi8(w, x.x));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline Quad broadcast_quad(std::uint32_t four_bytes) {
  return split_sign(_mm256_set1_epi32(static_cast<std::int32_t>(four_bytes)));
}
inline DenseW load_dense(const std::int8_t* p) { return {load_256(p), load_256(p + 32)}; }
inline void dense_dot(I16& acc, const Quad& x, const DenseW& w) {
  acc = {dot_half(acc.low, x, w.low), dot_half(acc.high, x, w.high)};
}

inline void dot(I16& acc, const Bytes& x, const DenseW& w) {
  acc = {dot_half(acc.low, split_sign(x.low), w.low),
         dot_half(acc.high, split_sign(x.high), w.high)};
}
