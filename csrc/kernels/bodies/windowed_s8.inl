// The windowed kernel: ROWS rows of x against SLICES slices of 16 outputs. The windows of the rows
// are loaded once and serve the steps of all slices; a step's positions and values serve all rows.
// STEPS > 0 is a compile-time step count for weights in which every window has the same (n:m
// masks); 0 reads the counts.

template <int ROWS, int SLICES, int STEPS, class Tile>
inline void windowed_s8_tile(const WindowedS8& weight, const Tile& tile, int first_row,
                             std::int64_t slice) {
  const std::int64_t windows = tile.taps * ((tile.inputs + kWindow - 1) / kWindow);
  I16 acc[SLICES][ROWS];
  const std::uint8_t* positions[SLICES];
  const std::int8_t* values[SLICES];
  const std::uint8_t* quarters[SLICES];
  const std::uint8_t* steps[SLICES];
#pragma GCC unroll 4
  for (int s = 0; s < SLICES; ++s) {
    const std::int64_t index = tile.first_slice + slice + s;
    const std::int64_t step = weight.step_ptr[index];
    positions[s] = weight.positions + step * 64;
    values[s] = weight.values + step * 64;
    quarters[s] = weight.quarters + step;
    steps[s] = weight.steps + index * windows;
    const I16 start =
        mul_i(load_i(weight.weight_sums + kLanes * index), set_i(kInputOffset - tile.zero_point));
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) acc[s][r] = start;
  }

  alignas(64) std::uint8_t spare[ROWS][kWindow];
  for (int tap = 0; tap < tile.taps; ++tap) {
    const std::uint8_t* const* rows = tile.rows + tap * tile.row_count + first_row;
#pragma GCC unroll 1
    for (std::int64_t base = 0; base < tile.inputs; base += kWindow) {
      // Row pointers are read again for each window: gcc 12 would keep those that find no register
      // in vector ones, where the loads wait behind all permutes. One step a window is too short
      // for the eight loads.
      if constexpr (ROWS > 5 && STEPS != 1) asm volatile("" : : : "memory");
      const std::int64_t rest = tile.inputs - base;
      Window x[ROWS];
      if (rest >= kWindow) {
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) x[r] = load_window(rows[r] + base, spare[r]);
      } else {
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) x[r] = load_window_part(rows[r] + base, rest, spare[r]);
      }
#pragma GCC unroll 4
      for (int s = 0; s < SLICES; ++s) {
        const int count = STEPS > 0 ? STEPS : *steps[s]++;
        if constexpr (kWholeWindows) {
          accumulate_steps(acc[s], x, positions[s], values[s], quarters[s], count);
          positions[s] += 64 * count;
          values[s] += 64 * count;
          quarters[s] += count;
        } else {
#pragma GCC unroll 4
          for (int step = 0; step < count; ++step) {
            accumulate_step<ROWS, STEPS>(acc[s], x, positions[s], values[s], *quarters[s]);
            positions[s] += 64;
            values[s] += 64;
            ++quarters[s];
          }
        }
      }
    }
  }

  store_tile(acc, tile, first_row, slice);
}

template <int ROWS, int STEPS>
void windowed_s8_slices(const WindowedS8& weight, const TileS8& tile, int first_row) {
  std::int64_t slice = 0;
  for (; slice + kWindowedSlices <= tile.slice_count; slice += kWindowedSlices) {
    windowed_s8_tile<ROWS, kWindowedSlices, STEPS>(weight, tile, first_row, slice);
  }
  for (; slice < tile.slice_count; ++slice) {
    windowed_s8_tile<ROWS, 1, STEPS>(weight, tile, first_row, slice);
  }
}

template <int ROWS>
void windowed_s8_rows(const WindowedS8& weight, const TileS8& tile, int first_row, int count) {
  if (count < ROWS) {
    if constexpr (ROWS > 1) windowed_s8_rows<ROWS - 1>(weight, tile, first_row, count);
    return;
  }
  if constexpr (kUniformSteps) {
    switch (weight.uniform_steps) {
      case 1:
        return windowed_s8_slices<ROWS, 1>(weight, tile, first_row);
      case 2:
        return windowed_s8_slices<ROWS, 2>(weight, tile, first_row);
      case 4:
        return windowed_s8_slices<ROWS, 4>(weight, tile, first_row);
      default:
        break;
    }
  }
  windowed_s8_slices<ROWS, 0>(weight, tile, first_row);
}

void linear_windowed_s8(const WindowedS8& weight, const TileS8& tile) {
  for (int row = 0; row < tile.row_count; row += kWindowedRows) {
    const int left = tile.row_count - row;
    windowed_s8_rows<kWindowedRows>(weight, tile, row, left < kWindowedRows ? left : kWindowedRows);
  }
}
