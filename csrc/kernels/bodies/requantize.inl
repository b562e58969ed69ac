// u8 output of a tile of sums in registers.

// fp32 values on their way to up to four vectors of bytes, in the order of pack_bytes.
template <int VECTORS, class Range>
[[gnu::always_inline]] inline Bytes bytes_of(const F16 (&y)[VECTORS], const F16& inverse,
                                             const Range& range) {
  I16 q[4];
#pragma GCC unroll 4
  for (int v = 0; v < VECTORS; ++v) q[v] = round_wide(mul(y[v], inverse));
#pragma GCC unroll 4
  for (int v = VECTORS; v < 4; ++v) q[v] = q[0];
  return pack_bytes(q, range);
}

// float(u - zero_point) * scale of n bytes.
[[gnu::always_inline]] inline F16 dequantized(const std::uint8_t* u, int n, const I16& minus_zp,
                                              const F16& scale) {
  return mul(to_float(add_i(load_u8(u, n), minus_zp)), scale);
}

template <int VECTORS>
[[gnu::always_inline]] inline Bytes requantize(const I16 (&acc)[VECTORS],
                                               const F16 (&scale)[VECTORS],
                                               const F16 (&bias)[VECTORS], const F16& inverse,
                                               const ByteRange& range) {
  F16 y[VECTORS];
#pragma GCC unroll 4
  for (int v = 0; v < VECTORS; ++v) y[v] = add(mul(to_float(acc[v]), scale[v]), bias[v]);
  return bytes_of(y, inverse, range);
}

// u8 rows of a tile of the outputs from `column` on; a whole tile has 16 * SLICES of them.
template <bool RESIDUAL, bool WHOLE, int ROWS, int SLICES, class Range>
[[gnu::always_inline]] inline void requantize_rows(const I16 (&acc)[SLICES][ROWS],
                                                   const RequantizeU8& to, const Range& range,
                                                   int first_row, std::int64_t column) {
  const F16 inverse = set_f(to.inverse_scale);
  F16 scale[SLICES], bias[SLICES];
#pragma GCC unroll 4
  for (int s = 0; s < SLICES; ++s) {
    scale[s] = load_f(to.scale + column + kLanes * s);
    bias[s] = load_f(to.bias + column + kLanes * s);
  }
  constexpr int kMost = kLanes * SLICES;
  const int bytes =
      WHOLE || to.columns - column >= kMost ? kMost : static_cast<int>(to.columns - column);
  const std::int64_t first = first_row * to.y_stride + column;
  std::uint8_t* y = to.y + first;
  const std::uint8_t* residual = RESIDUAL ? to.residual + first : nullptr;
  const I16 minus_zp = set_i(-to.residual_zero_point);
  const F16 residual_scale = set_f(to.residual_scale);
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r, y += to.y_stride) {
    F16 sums[SLICES];
#pragma GCC unroll 4
    for (int s = 0; s < SLICES; ++s) {
      sums[s] = add(mul(to_float(acc[s][r]), scale[s]), bias[s]);
      if constexpr (RESIDUAL) {
        const int left = bytes - kLanes * s, n = left < 0 ? 0 : left < kLanes ? left : kLanes;
        const std::uint8_t* from = residual + r * to.y_stride + kLanes * s;
        sums[s] = add(sums[s], dequantized(from, n, minus_zp, residual_scale));
      }
    }
    const Bytes u = in_order(bytes_of(sums, inverse, range));
    bytes == 64 ? store_bytes(y, u) : store_bytes_part(y, u, bytes);
  }
}

template <int ROWS, int SLICES>
[[gnu::always_inline]] inline void requantize_tile(const I16 (&acc)[SLICES][ROWS],
                                                   const RequantizeU8& to, int first_row,
                                                   std::int64_t column) {
  const ByteRange range = byte_range(to.zero_point, to.low, to.high);
  if (to.residual == nullptr) {
    return requantize_rows<false, false>(acc, to, range, first_row, column);
  }
  requantize_rows<true, false>(acc, to, range, first_row, column);
}

// The usual end of a layer: relu without a residual, whole slices. Asking for that once for all
// tiles and leaving out clamps makes it an eighth faster where there are 64 inputs.
struct ReluTileS8 : TileS8 {};

inline bool ends_in_relu(const RequantizeU8& to, std::int64_t end) {
  return to.residual == nullptr && to.low == to.zero_point && to.high == 255 && to.columns >= end;
}

template <int ROWS, int SLICES>
[[gnu::always_inline]] inline void store_tile(const I16 (&acc)[SLICES][ROWS],
                                              const ReluTileS8& tile, int first_row,
                                              std::int64_t slice) {
  const RequantizeU8& to = *tile.requantize;
  requantize_rows<false, true>(acc, to, relu_range(to.zero_point), first_row, kLanes * slice);
}
