// The end of an integer tile: its sums to memory, or the fp32 output at once, which saves a store,
// a load and the loop of an epilogue of its own for every 16 outputs.

template <bool FLOOR, int ROWS, int SLICES>
[[gnu::always_inline]] inline void store_fp32(const I16 (&acc)[SLICES][ROWS], const StoreFp32& to,
                                              int first_row, std::int64_t column) {
  F16 scale[SLICES], bias[SLICES];
#pragma GCC unroll 4
  for (int s = 0; s < SLICES; ++s) {
    scale[s] = load_f(to.scale + column + kLanes * s);
    // x + -0 is x, whatever its sign.
    bias[s] = to.bias != nullptr ? load_f(to.bias + column + kLanes * s) : set_f(-0.0f);
  }
  const F16 floor = set_f(to.floor);
  const float* row_scale = to.row_scale + first_row;
  const std::int64_t stride = to.y_stride;
  float* y = to.y + first_row * stride + column;
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r, y += stride) {
    const F16 factor = set_f(row_scale[r]);
#pragma GCC unroll 4
    for (int s = 0; s < SLICES; ++s) {
      const F16 sum = add(mul(to_float(acc[s][r]), mul(factor, scale[s])), bias[s]);
      store_f(y + kLanes * s, FLOOR ? at_least(sum, floor) : sum);
    }
  }
}

// The same for a block of 64 outputs in the weight's own order, whose sums stand in memory: L1,
// where the tiles have just put them. The job by value, so that stores of y can not change it.
[[gnu::noinline]] inline void store_ordered(const StoreFp32 to, const std::int32_t* acc,
                                            std::int64_t acc_stride, int rows,
                                            std::int64_t column) {
  constexpr int kVectors = kOrderBlock / kLanes;
  I16 places[kVectors];
  F16 scale[kVectors], bias[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const std::int64_t at = column + kLanes * v;
    places[v] = load_i(to.places + at);
    scale[v] = load_f(to.scale + at);
    bias[v] = to.bias != nullptr ? load_f(to.bias + at) : set_f(-0.0f);
  }
  const F16 floor = set_f(to.floor);
  float* y = to.y + column;
  for (int r = 0; r < rows; ++r, acc += acc_stride, y += to.y_stride) {
    const F16 factor = set_f(to.row_scale[r]);
    const auto block = load_block(acc, kVectors);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const F16 part = mul(to_float(pick(block, places[v])), mul(factor, scale[v]));
      store_f(y + kLanes * v, at_least(add(part, bias[v]), floor));
    }
  }
}

// `slice` counts from the first slice of the tile.
template <int ROWS, int SLICES>
[[gnu::always_inline]] inline void store_tile(const I16 (&acc)[SLICES][ROWS], const TileS8& tile,
                                              int first_row, std::int64_t slice) {
  const StoreFp32* const store = tile.store;
  const bool ordered = store != nullptr && store->places != nullptr;
  if (store != nullptr && !ordered) {
    // The maximum takes a port that the next tile's permutes want.
    const bool floor = store->floor != -std::numeric_limits<float>::infinity();
    return floor ? store_fp32<true>(acc, *store, first_row, kLanes * slice)
                 : store_fp32<false>(acc, *store, first_row, kLanes * slice);
  }
  if (tile.requantize != nullptr) {
    return requantize_tile(acc, *tile.requantize, first_row, kLanes * slice);
  }
  const std::int64_t stride = tile.acc_stride;
  std::int32_t* to = tile.acc + first_row * stride + kLanes * slice;
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r, to += stride) {
#pragma GCC unroll 4
    for (int s = 0; s < SLICES; ++s) store_i(to + kLanes * s, acc[s][r]);
  }
  const std::int64_t end = kLanes * (slice + SLICES);
  if (ordered && end % kOrderBlock == 0) {
    StoreFp32 rows = *store;
    rows.row_scale += first_row;
    rows.y += first_row * rows.y_stride;
    store_ordered(rows, tile.acc + first_row * stride + end - kOrderBlock, stride, ROWS,
                  end - kOrderBlock);
  }
}
