// Convolutions of u8 to u8: many output pixels against all slices of a group. Four slices at a
// time, so that a pixel's 64 bytes are one store, and their weights serve all pixels from L1.

template <int N>
struct Rows {
  static constexpr int value = N;
};

// Calls body(Rows<n>, first_row) `count` times with n = rows, which is at most MOST.
template <int MOST, class Body>
inline int repeat(int rows, int count, int first_row, const Body& body) {
  if constexpr (MOST > 1) {
    if (rows < MOST) return repeat<MOST - 1>(rows, count, first_row, body);
  }
  for (int i = 0; i < count; ++i, first_row += MOST) body(Rows<MOST>{}, first_row);
  return first_row;
}

// Cuts row_count rows into nearly equal tiles of at most MOST.
template <int MOST, class Body>
inline void for_each_row_tile(int row_count, const Body& body) {
  const int tiles = (row_count + MOST - 1) / MOST, rows = row_count / tiles;
  const int longer = row_count % tiles;
  int row = 0;
  if (longer > 0) row = repeat<MOST>(rows + 1, longer, row, body);
  repeat<MOST>(rows, tiles - longer, row, body);
}

template <int SLICES, int STEPS, class Tile>
inline void conv_windowed_rows(const WindowedS8& weight, const Tile& tile, std::int64_t slice) {
  for_each_row_tile<kConvRows>(tile.row_count, [&](auto rows, int row) {
    windowed_s8_tile<decltype(rows)::value, SLICES, STEPS>(weight, tile, row, slice);
  });
}

// All tiles in one function on structs of its own, which no store of a byte can change: a tile that
// reads the caller's again and again starts so late that the one before does not hide it.
template <int SLICES, int STEPS, class Tile>
[[gnu::flatten]] void conv_windowed_slices(const WindowedS8& given, const Tile& call,
                                           std::int64_t slice) {
  const WindowedS8 weight = given;
  const RequantizeU8 to = *call.requantize;
  Tile tile = call;
  tile.store = nullptr;
  tile.requantize = &to;
  if (STEPS > 0 && call.taps == 1 && call.inputs == kWindow) {  // a tile in a straight line
    tile.taps = 1;
    tile.inputs = kWindow;
    return conv_windowed_rows<SLICES, STEPS>(weight, tile, slice);
  }
  conv_windowed_rows<SLICES, STEPS>(weight, tile, slice);
}

// The last slices of a group, fewer than kConvSlices.
template <int MOST>
void conv_windowed_rest(const WindowedS8& weight, const TileS8& tile, std::int64_t slice) {
  if constexpr (MOST > 0) {
    if (tile.slice_count - slice == MOST) return conv_windowed_slices<MOST, 0>(weight, tile, slice);
    conv_windowed_rest<MOST - 1>(weight, tile, slice);
  }
}

template <class Tile>
void conv_windowed_whole(const WindowedS8& weight, const Tile& tile, std::int64_t slice) {
  if constexpr (kUniformSteps) {
    switch (weight.uniform_steps) {
      case 1:
        return conv_windowed_slices<kConvSlices, 1>(weight, tile, slice);
      case 2:
        return conv_windowed_slices<kConvSlices, 2>(weight, tile, slice);
      case 4:
        return conv_windowed_slices<kConvSlices, 4>(weight, tile, slice);
      default:
        break;
    }
  }
  conv_windowed_slices<kConvSlices, 0>(weight, tile, slice);
}

void conv_windowed_s8(const WindowedS8& weight, const TileS8& tile) {
  std::int64_t slice = 0;
  for (; slice + kConvSlices <= tile.slice_count; slice += kConvSlices) {
    if constexpr (kReluTiles) {
      if (ends_in_relu(*tile.requantize, kLanes * (slice + kConvSlices))) {
        conv_windowed_whole(weight, ReluTileS8{tile}, slice);
        continue;
      }
    }
    conv_windowed_whole(weight, tile, slice);
  }
  conv_windowed_rest<kConvSlices - 1>(weight, tile, slice);
}

template <int SLICES, class Tile>
void conv_dense_slices(const DenseS8& weight, const Tile& tile, std::int64_t slice) {
  for_each_row_tile<kDenseRows>(tile.row_count, [&](auto rows, int row) {
    dense_s8_tile<decltype(rows)::value, SLICES>(weight, tile, row, slice);
  });
}

template <int MOST>
void conv_dense_rest(const DenseS8& weight, const TileS8& tile, std::int64_t slice) {
  if constexpr (MOST > 0) {
    if (tile.slice_count - slice == MOST) return conv_dense_slices<MOST>(weight, tile, slice);
    conv_dense_rest<MOST - 1>(weight, tile, slice);
  }
}

void conv_dense_s8(const DenseS8& weight, const TileS8& tile) {
  std::int64_t slice = 0;
  for (; slice + kDenseSlices <= tile.slice_count; slice += kDenseSlices) {
    if constexpr (kReluTiles) {
      if (ends_in_relu(*tile.requantize, kLanes * (slice + kDenseSlices))) {
        conv_dense_slices<kDenseSlices>(weight, ReluTileS8{tile}, slice);
        continue;
      }
    }
    conv_dense_slices<kDenseSlices>(weight, tile, slice);
  }
  conv_dense_rest<kDenseSlices - 1>(weight, tile, slice);
}
