// Sums of two u8 images in another scale.

void add_u8(const AddU8& job) {
  const I16 a_shift = set_i(-job.a_zero_point), b_shift = set_i(-job.b_zero_point);
  const F16 a_scale = set_f(job.a_scale), b_scale = set_f(job.b_scale);
  const F16 inverse = set_f(job.inverse_scale);
  const ByteRange range = byte_range(job.out_zero_point, job.low, job.high);
  const auto sums_at = [&](std::int64_t at, int n) {
    return add(dequantized(job.a + at, n, a_shift, a_scale),
               dequantized(job.b + at, n, b_shift, b_scale));
  };
  for (std::int64_t i = 0; i < job.count; i += 64) {
    const int n = job.count - i < 64 ? static_cast<int>(job.count - i) : 64;
    F16 y[4];
    if (n == 64) {
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) y[v] = sums_at(i + kLanes * v, kLanes);
      store_bytes(job.y + i, in_order(bytes_of(y, inverse, range)));
      continue;
    }
    for (int v = 0; v < 4; ++v) {
      const int left = n - kLanes * v;
      y[v] = left > 0 ? sums_at(i + kLanes * v, left < kLanes ? left : kLanes) : set_f(0.0f);
    }
    store_bytes_part(job.y + i, in_order(bytes_of(y, inverse, range)), n);
  }
}
