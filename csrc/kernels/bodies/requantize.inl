// u8 output of a tile of sums in registers.

// The bytes of up to four vectors of sums, in the order of pack_bytes.
template <int VECTORS>
[[gnu::always_inline]] inline Bytes requantize(const I16 (&acc)[VECTORS],
                                               const F16 (&scale)[VECTORS],
                                               const F16 (&bias)[VECTORS], const F16& inverse,
                                               const ByteRange& range) {
  I16 q[4];
#pragma GCC unroll 4
  for (int v = 0; v < VECTORS; ++v) {
    q[v] = round_wide(mul(add(mul(to_float(acc[v]), scale[v]), bias[v]), inverse));
  }
#pragma GCC unroll 4
  for (int v = VECTORS; v < 4; ++v) q[v] = q[0];
  return pack_bytes(q, range);
}

template <int ROWS, int SLICES>
[[gnu::always_inline]] inline void requantize_tile(const I16 (&acc)[SLICES][ROWS],
                                                   const RequantizeU8& to, int first_row,
                                                   std::int64_t column) {
  const ByteRange range = byte_range(to.zero_point, to.low, to.high);
  const F16 inverse = set_f(to.inverse_scale);
  F16 scale[SLICES], bias[SLICES];
#pragma GCC unroll 4
  for (int s = 0; s < SLICES; ++s) {
    scale[s] = load_f(to.scale + column + kLanes * s);
    bias[s] = load_f(to.bias + column + kLanes * s);
  }
  constexpr int kMost = kLanes * SLICES;
  const int bytes = to.columns - column < kMost ? static_cast<int>(to.columns - column) : kMost;
  std::uint8_t* y = to.y + first_row * to.y_stride + column;
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r, y += to.y_stride) {
    I16 sums[SLICES];
#pragma GCC unroll 4
    for (int s = 0; s < SLICES; ++s) sums[s] = acc[s][r];
    Bytes u = in_order(requantize(sums, scale, bias, inverse, range));
    if (to.places != nullptr) u = pick_bytes(u, to.places + column, bytes);
    bytes == 64 ? store_bytes(y, u) : store_bytes_part(y, u, bytes);
  }
}
