// 16 lanes as plain arrays: the portable table, and the order of operations that the others follow.

struct F16 {
  float lane[16];
};
struct I16 {
  std::int32_t lane[16];
};

template <class Out, class Op>
inline Out each(const Op& op) {
  Out out;
  for (int i = 0; i < 16; ++i) out.lane[i] = op(i);
  return out;
}

inline std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float float_of(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
// Addition modulo 2^32: signed overflow is undefined in C++.
inline std::int32_t wrap(std::uint32_t x) { return static_cast<std::int32_t>(x); }
inline std::uint32_t unsign(std::int32_t x) { return static_cast<std::uint32_t>(x); }

inline F16 load_f(const float* p) {
  return each<F16>([&](int i) { return p[i]; });
}
inline F16 load_f_part(const float* p, int n) {
  return each<F16>([&](int i) { return i < n ? p[i] : 0.0f; });
}
inline void store_f_part(float* p, const F16& x, int n) {
  for (int i = 0; i < n; ++i) p[i] = x.lane[i];
}
inline void store_f(float* p, const F16& x) { store_f_part(p, x, 16); }
inline F16 set_f(float x) {
  return each<F16>([&](int) { return x; });
}
inline F16 add(const F16& a, const F16& b) {
  return each<F16>([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline F16 sub(const F16& a, const F16& b) {
  return each<F16>([&](int i) { return a.lane[i] - b.lane[i]; });
}
inline F16 mul(const F16& a, const F16& b) {
  return each<F16>([&](int i) { return a.lane[i] * b.lane[i]; });
}
inline F16 div(const F16& a, const F16& b) {
  return each<F16>([&](int i) { return a.lane[i] / b.lane[i]; });
}
inline F16 at_least(const F16& x, const F16& lo) {
  return each<F16>([&](int i) { return x.lane[i] < lo.lane[i] ? lo.lane[i] : x.lane[i]; });
}
inline F16 at_most(const F16& x, const F16& hi) {
  return each<F16>([&](int i) { return x.lane[i] > hi.lane[i] ? hi.lane[i] : x.lane[i]; });
}
inline F16 greater(const F16& a, const F16& b) {
  return each<F16>([&](int i) {
    return b.lane[i] > a.lane[i] || b.lane[i] != b.lane[i] ? b.lane[i] : a.lane[i];
  });
}
inline F16 zero_where_nan(const F16& x) {
  return each<F16>([&](int i) { return x.lane[i] != x.lane[i] ? 0.0f : x.lane[i]; });
}
inline F16 where_negative(const F16& x, const F16& yes, const F16& no) {
  return each<F16>([&](int i) { return bits_of(x.lane[i]) >> 31 != 0 ? yes.lane[i] : no.lane[i]; });
}
// Adding 1.5 * 2^23 leaves an integer in the low bits, rounded to nearest even; every argument here
// is below 2^22. A NaN gives some integer, as the vector instruction does; callers do not use it.
inline I16 round_i(const F16& x) {
  return each<I16>([&](int i) { return wrap(bits_of(x.lane[i] + 12582912.0f) - 0x4B400000u); });
}
inline F16 to_float(const I16& x) {
  return each<F16>([&](int i) { return static_cast<float>(x.lane[i]); });
}
inline F16 power_of_two(const I16& n) {
  return each<F16>([&](int i) { return float_of((unsign(n.lane[i]) + 127u) << 23); });
}

inline I16 load_i(const std::int32_t* p) {
  return each<I16>([&](int i) { return p[i]; });
}
inline void store_i(std::int32_t* p, const I16& x) {
  for (int i = 0; i < 16; ++i) p[i] = x.lane[i];
}
inline I16 set_i(std::int32_t x) {
  return each<I16>([&](int) { return x; });
}
inline I16 add_i(const I16& a, const I16& b) {
  return each<I16>([&](int i) { return wrap(unsign(a.lane[i]) + unsign(b.lane[i])); });
}
inline I16 mul_i(const I16& a, const I16& b) {
  return each<I16>([&](int i) { return wrap(unsign(a.lane[i]) * unsign(b.lane[i])); });
}
inline I16 max_i(const I16& a, const I16& b) {
  return each<I16>([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline I16 absolute_bits(const F16& x) {
  return each<I16>([&](int i) { return wrap(bits_of(x.lane[i]) & 0x7FFFFFFFu); });
}
inline std::int32_t reduce_max(const I16& x) {
  std::int32_t most = x.lane[0];
  for (int i = 1; i < 16; ++i) most = x.lane[i] > most ? x.lane[i] : most;
  return most;
}
// Sums of up to 64 outputs, from which 16 are picked by place.
inline const std::int32_t* load_block(const std::int32_t* p, int) { return p; }
inline const float* load_block(const float* p, int) { return p; }
inline I16 load_places(const std::int32_t* places, int n) {
  return each<I16>([&](int i) { return i < n ? places[i] : 0; });
}
inline I16 pick(const std::int32_t* from, const I16& place) {
  return each<I16>([&](int i) { return from[place.lane[i]]; });
}
inline F16 pick(const float* from, const I16& place) {
  return each<F16>([&](int i) { return from[place.lane[i]]; });
}
inline void store_u8(std::uint8_t* p, const I16& a, const I16& b, const I16& c, const I16& d) {
  for (int i = 0; i < 16; ++i) {
    p[i] = static_cast<std::uint8_t>(a.lane[i]);
    p[16 + i] = static_cast<std::uint8_t>(b.lane[i]);
    p[32 + i] = static_cast<std::uint8_t>(c.lane[i]);
    p[48 + i] = static_cast<std::uint8_t>(d.lane[i]);
  }
}

// 64 bytes; avx512.inl says how they stand beside 64 int32.
struct Bytes {
  std::uint8_t byte[64];
};

inline Bytes zero_bytes() { return {}; }
inline Bytes max_bytes(const Bytes& a, const Bytes& b) {
  Bytes most = a;
  for (int i = 0; i < 64; ++i) most.byte[i] = b.byte[i] > a.byte[i] ? b.byte[i] : a.byte[i];
  return most;
}
inline Bytes load_bytes_part(const std::uint8_t* p, int n) {
  Bytes x = {};
  std::memcpy(x.byte, p, static_cast<std::size_t>(n));
  return x;
}
inline Bytes load_bytes(const std::uint8_t* p) { return load_bytes_part(p, 64); }
inline void store_bytes_part(std::uint8_t* p, const Bytes& x, int n) {
  std::memcpy(p, x.byte, static_cast<std::size_t>(n));
}
inline void store_bytes(std::uint8_t* p, const Bytes& x) { store_bytes_part(p, x, 64); }

struct ByteRange {
  std::int32_t zero_point, low, high;
};
inline ByteRange byte_range(std::int32_t zero_point, std::uint8_t low, std::uint8_t high) {
  return {zero_point, low, high};
}
// What lies beyond becomes the least or the greatest byte anyway.
inline I16 round_wide(const F16& x) {
  return round_i(at_most(at_least(x, set_f(-0x1p21f)), set_f(0x1p21f)));
}
inline int packed_at(int q, int lane) { return 16 * (lane / 4) + 4 * q + lane % 4; }
inline Bytes pack_bytes(const I16 (&q)[4], const ByteRange& range) {
  Bytes bytes;
  for (int i = 0; i < 64; ++i) {
    const std::int32_t x = q[i / 16].lane[i % 16] + range.zero_point;
    const std::int32_t raised = x < range.low ? range.low : x;
    bytes.byte[packed_at(i / 16, i % 16)] =
        static_cast<std::uint8_t>(raised > range.high ? range.high : raised);
  }
  return bytes;
}
struct ReluRange {  // zero_point..255
  std::int32_t zero_point;
};
inline ReluRange relu_range(std::int32_t zero_point) { return {zero_point}; }
inline Bytes pack_bytes(const I16 (&q)[4], const ReluRange& range) {
  return pack_bytes(q,
                    ByteRange{range.zero_point, static_cast<std::uint8_t>(range.zero_point), 255});
}
inline Bytes in_order(const Bytes& packed) {
  Bytes bytes;
  for (int i = 0; i < 64; ++i) bytes.byte[i] = packed.byte[packed_at(i / 16, i % 16)];
  return bytes;
}
inline void interleave(const Bytes (&x)[4], Bytes (&mixed)[4]) {
  for (int q = 0; q < 4; ++q) {
    for (int i = 0; i < 64; ++i) mixed[q].byte[i] = x[i % 4].byte[packed_at(q, i / 4)];
  }
}
inline void store_interleaved(std::int32_t* p, const I16 (&x)[4]) {
  for (int i = 0; i < 64; ++i) p[packed_at(i / 16, i % 16)] = x[i / 16].lane[i % 16];
}

inline I16 load_u8(const std::uint8_t* p, int n) {
  return each<I16>([&](int i) { return i < n ? p[i] : 0; });
}

constexpr std::int32_t kInputOffset = 0;
constexpr int kWindowedRows = 4, kWindowedSlices = 1, kDenseRows = 4, kDenseSlices = 1;
constexpr int kConvRows = kWindowedRows, kConvSlices = 1;

constexpr bool kWholeWindows = false;
constexpr bool kReluTiles = false;
constexpr bool kUniformSteps = false;
using Window = const std::uint8_t*;

inline Window load_window(const std::uint8_t* p, std::uint8_t*) { return p; }
inline Window load_window_part(const std::uint8_t* p, std::int64_t n, std::uint8_t* spare) {
  std::memset(spare, 0, kWindow);
  std::memcpy(spare, p, static_cast<std::size_t>(n));
  return spare;
}

template <int ROWS, int>
inline void accumulate_step(I16 (&acc)[ROWS], const Window (&x)[ROWS],
                            const std::uint8_t* positions, const std::int8_t* values, unsigned) {
  for (int r = 0; r < ROWS; ++r) {
    for (int i = 0; i < 64; ++i) {
      const std::int32_t product = x[r][positions[i] & (kWindow - 1)] * values[i];
      acc[r].lane[i / 4] = wrap(unsign(acc[r].lane[i / 4]) + unsign(product));
    }
  }
}

struct Quad {
  std::uint8_t byte[4];
};
using DenseW = const std::int8_t*;

inline Quad broadcast_quad(std::uint32_t four_bytes) {
  Quad quad;
  std::memcpy(quad.byte, &four_bytes, sizeof quad.byte);
  return quad;
}
inline DenseW load_dense(const std::int8_t* p) { return p; }
inline void dense_dot(I16& acc, const Quad& x, DenseW w) {
  for (int i = 0; i < 64; ++i) {
    const std::int32_t product = x.byte[i % 4] * w[i];
    acc.lane[i / 4] = wrap(unsign(acc.lane[i / 4]) + unsign(product));
  }
}
inline void dot(I16& acc, const Bytes& x, DenseW w) {
  for (int i = 0; i < 64; ++i) {
    const std::int32_t product = x.byte[i] * w[i];
    acc.lane[i / 4] = wrap(unsign(acc.lane[i / 4]) + unsign(product));
  }
}
