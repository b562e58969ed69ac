// What bodies/csr_f32.inl and bodies/transpose.inl need beside scalar.inl. Without a fused
// instruction the product is rounded before the sum, in every tile alike.

inline F16 multiply_add(const F16& a, const F16& b, const F16& c) { return add(mul(a, b), c); }

struct F4 {
  float lane[4];
};
inline F4 set_four(float x) { return {{x, x, x, x}}; }
inline F4 load_four(const float* p) { return {{p[0], p[1], p[2], p[3]}}; }
inline void store_four(float* p, const F4& x) {
  for (int i = 0; i < 4; ++i) p[i] = x.lane[i];
}
inline F4 multiply_add(const F4& a, const F4& b, F4 c) {
  for (int i = 0; i < 4; ++i) c.lane[i] += a.lane[i] * b.lane[i];
  return c;
}
template <class Index>
inline F4 pick_four(const float* p, const Index* index) {
  return {{p[index[0]], p[index[1]], p[index[2]], p[index[3]]}};
}

constexpr int csr_outputs(int) { return 1; }

inline void transpose_block(const float* from, std::int64_t from_stride, float* to,
                            std::int64_t to_stride) {
  for (int c = 0; c < 16; ++c) {
    for (int r = 0; r < 16; ++r) to[c * to_stride + r] = from[r * from_stride + c];
  }
}
