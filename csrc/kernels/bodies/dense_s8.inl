// The dense kernel: ROWS rows of x against SLICES slices of 16 outputs, four inputs a step. Each
// broadcast quad of x serves all slices, each panel row all rows.

template <int ROWS, int SLICES, class Tile>
inline void dense_s8_tile(const DenseS8& weight, const Tile& tile, int first_row,
                          std::int64_t slice) {
  const std::int64_t quads_per_tap = (tile.inputs + kDot - 1) / kDot;
  const std::int64_t whole = tile.inputs / kDot;
  const int rest = static_cast<int>(tile.inputs % kDot);
  const std::int64_t panel = tile.taps * quads_per_tap * 64;  // bytes of one slice
  const std::int8_t* w = weight.panels + (tile.first_slice + slice) * panel;
  I16 acc[SLICES][ROWS];
#pragma GCC unroll 4
  for (int s = 0; s < SLICES; ++s) {
    const I16 start = mul_i(load_i(weight.weight_sums + kLanes * (tile.first_slice + slice + s)),
                            set_i(kInputOffset - tile.zero_point));
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) acc[s][r] = start;
  }

  for (int tap = 0; tap < tile.taps; ++tap) {
    const std::uint8_t* x[ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) x[r] = tile.rows[tap * tile.row_count + first_row + r];
#pragma GCC unroll 1
    for (std::int64_t quad = 0; quad < whole; ++quad, w += 64) {
      DenseW weights[SLICES];
#pragma GCC unroll 4
      for (int s = 0; s < SLICES; ++s) weights[s] = load_dense(w + s * panel);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
        std::uint32_t four_bytes;
        std::memcpy(&four_bytes, x[r] + kDot * quad, sizeof four_bytes);
        const Quad broadcast = broadcast_quad(four_bytes);
#pragma GCC unroll 4
        for (int s = 0; s < SLICES; ++s) dense_dot(acc[s][r], broadcast, weights[s]);
      }
    }
    if (rest == 0) continue;
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {  // 1..3 inputs are left: read exactly those
      const std::uint8_t* last = x[r] + kDot * whole;
      std::uint32_t bytes = last[0];
      if (rest > 1) bytes |= static_cast<std::uint32_t>(last[1]) << 8;
      if (rest > 2) bytes |= static_cast<std::uint32_t>(last[2]) << 16;
      const Quad broadcast = broadcast_quad(bytes);
#pragma GCC unroll 4
      for (int s = 0; s < SLICES; ++s) {
        dense_dot(acc[s][r], broadcast, load_dense(w + s * panel));
      }
    }
    w += 64;
  }

  store_tile(acc, tile, first_row, slice);
}

template <int ROWS>
void dense_s8_rows(const DenseS8& weight, const TileS8& tile, int first_row, int count) {
  if (count < ROWS) {
    if constexpr (ROWS > 1) dense_s8_rows<ROWS - 1>(weight, tile, first_row, count);
    return;
  }
  std::int64_t slice = 0;
  for (; slice + kDenseSlices <= tile.slice_count; slice += kDenseSlices) {
    dense_s8_tile<ROWS, kDenseSlices>(weight, tile, first_row, slice);
  }
  for (; slice < tile.slice_count; ++slice) dense_s8_tile<ROWS, 1>(weight, tile, first_row, slice);
}

void linear_dense_s8(const DenseS8& weight, const TileS8& tile) {
  for (int row = 0; row < tile.row_count; row += kDenseRows) {
    const int left = tile.row_count - row;
    dense_s8_rows<kDenseRows>(weight, tile, row, left < kDenseRows ? left : kDenseRows);
  }
}
