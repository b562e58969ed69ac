// Rows of fp32 to u8, dynamic and static, and back (docs/numerics.md). Two passes over a row in the
// dynamic case; the second finds it in L1.

// Applies to_u8 to 64 floats at a time; the tail goes through a buffer, so that nothing is read or
// written past the row.
template <class ToU8>
inline void quantize_each(const float* x, std::int64_t count, std::uint8_t* u, const ToU8& to_u8) {
  std::int64_t i = 0;
  for (; i + 64 <= count; i += 64) {
    store_u8(u + i, to_u8(load_f(x + i)), to_u8(load_f(x + i + 16)), to_u8(load_f(x + i + 32)),
             to_u8(load_f(x + i + 48)));
  }
  if (i == count) return;
  I16 parts[4];
  const int rest = static_cast<int>(count - i);
#pragma GCC unroll 4
  for (int part = 0; part < 4; ++part) {
    const int lanes = rest - 16 * part;
    parts[part] = to_u8(lanes >= 16 ? load_f(x + i + 16 * part)
                        : lanes > 0 ? load_f_part(x + i + 16 * part, lanes)
                                    : set_f(0.0f));
  }
  alignas(64) std::uint8_t buffer[64];
  store_u8(buffer, parts[0], parts[1], parts[2], parts[3]);
  std::memcpy(u + i, buffer, static_cast<std::size_t>(rest));
}

// The absolute maximum as an integer maximum of the bits: unlike a float maximum it keeps a NaN.
float absolute_maximum(const float* x, std::int64_t count) {
  I16 most[4] = {set_i(0), set_i(0), set_i(0), set_i(0)};  // four chains hide the latency
  std::int64_t i = 0;
  for (; i + 64 <= count; i += 64) {
#pragma GCC unroll 4
    for (int part = 0; part < 4; ++part) {
      most[part] = max_i(most[part], absolute_bits(load_f(x + i + 16 * part)));
    }
  }
  for (; i + 16 <= count; i += 16) most[0] = max_i(most[0], absolute_bits(load_f(x + i)));
  if (i < count) {
    const F16 last = load_f_part(x + i, static_cast<int>(count - i));
    most[0] = max_i(most[0], absolute_bits(last));
  }
  const std::int32_t bits = reduce_max(max_i(max_i(most[0], most[1]), max_i(most[2], most[3])));
  float maximum;
  std::memcpy(&maximum, &bits, sizeof maximum);
  return maximum;
}

float quantize_dynamic_s8(const float* x, std::int64_t count, std::uint8_t* u) {
  constexpr float kInverse127 = 1.0f / 127.0f;
  constexpr float kTiny = 0x1p-100f;  // under it 1 / scale could overflow
  const float maximum = absolute_maximum(x, count);
  if (!(maximum >= kTiny && maximum <= std::numeric_limits<float>::max())) {
    std::memset(u, 128, static_cast<std::size_t>(count));
    return maximum < kTiny ? 1.0f : std::numeric_limits<float>::quiet_NaN();
  }
  const float scale = maximum * kInverse127;
  const F16 inverse = set_f(1.0f / scale);
  const I16 shift = set_i(128);
  // No clamp to +-127: three roundings take |x| / scale to 127 (1 + 2^-22) at most, which rounds to
  // 127.
  quantize_each(x, count, u,
                [&](const F16& part) { return add_i(round_i(mul(part, inverse)), shift); });
  return scale;
}

void quantize_static_u8(const float* x, std::int64_t count, float inverse_scale,
                        std::int32_t zero_point, std::uint8_t* u) {
  const F16 inverse = set_f(inverse_scale);
  const F16 low = set_f(static_cast<float>(-zero_point));
  const F16 high = set_f(static_cast<float>(255 - zero_point));
  const I16 shift = set_i(zero_point);
  quantize_each(x, count, u, [&](const F16& part) {
    const F16 clamped = at_most(at_least(mul(part, inverse), low), high);
    return add_i(round_i(zero_where_nan(clamped)), shift);
  });
}

void dequantize_u8(const std::uint8_t* u, std::int64_t count, float scale, std::int32_t zero_point,
                   float* x) {
  const I16 minus_zp = set_i(-zero_point);
  const F16 factor = set_f(scale);
  for (std::int64_t i = 0; i < count; i += kLanes) {
    const int n = count - i < kLanes ? static_cast<int>(count - i) : kLanes;
    store_lanes(x + i, dequantized(u + i, n, minus_zp, factor), n);
  }
}
