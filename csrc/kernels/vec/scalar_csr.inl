// What bodies/csr_f32.inl and bodies/transpose.inl need beside scalar.inl. Without a fused
// instruction the product is rounded before the sum, in every tile alike.

inline F16 multiply_add(const F16& a, const F16& b, const F16& c) { return add(mul(a, b), c); }
inline float multiply_add(float a, float b, float c) { return a * b + c; }

constexpr int csr_outputs(int) { return 1; }

inline void transpose_block(const float* from, std::int64_t from_stride, float* to,
                            std::int64_t to_stride) {
  for (int c = 0; c < 16; ++c) {
    for (int r = 0; r < 16; ++r) to[c * to_stride + r] = from[r * from_stride + c];
  }
}
