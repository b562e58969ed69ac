// The windowed loop for floats, fp32 and bf16 alike: ROWS rows of x against SLICES slices of 16
// outputs. `Gather` (vec/) knows the window's registers, the packing of positions and one step. The
// windows of the rows are loaded once and serve the steps of all slices; a step's positions and
// values serve all rows. Each sum is one chain in the order of the steps, so its bits depend on
// neither the tile nor its neighbours. STEPS > 0 is a compile-time step count for weights in which
// every whole window has the same (n:m masks), offered where the step itself costs little enough
// for that to matter; 0 reads the counts. A short last window always reads its own.

// The end of a tile: its sums to memory, or the output at once, which saves a store, a load and the
// loop of an epilogue of its own for every 16 outputs. `slice` counts from the first of the tile.
template <class Input, int ROWS, int SLICES>
[[gnu::always_inline]] inline void store_sums(const F16 (&acc)[SLICES][ROWS],
                                              const FloatTile<Input>& tile, int first_row,
                                              std::int64_t slice) {
  const std::int64_t column = kLanes * slice;
  if (tile.store == nullptr) {
    float* to = tile.acc + first_row * tile.acc_stride + column;
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r, to += tile.acc_stride) {
#pragma GCC unroll 4
      for (int s = 0; s < SLICES; ++s) store_f(to + kLanes * s, acc[s][r]);
    }
    return;
  }
  const StoreSums to = *tile.store;
  F16 bias[SLICES];
#pragma GCC unroll 4
  for (int s = 0; s < SLICES; ++s) {
    // x + -0 is x, whatever its sign.
    bias[s] = to.bias != nullptr ? load_f(to.bias + column + kLanes * s) : set_f(-0.0f);
  }
  const F16 floor = set_f(to.floor);
  float* y = to.y + first_row * to.y_stride + column;
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r, y += to.y_stride) {
#pragma GCC unroll 4
    for (int s = 0; s < SLICES; ++s) {
      store_f(y + kLanes * s, at_least(add(acc[s][r], bias[s]), floor));
    }
  }
}

template <class Gather, int SLICES>
struct FloatStreams {
  typename Gather::Positions positions[SLICES];
  int left[SLICES];  // steps left in `positions`
  const typename Gather::Value* values[SLICES];
  const typename Gather::Word* words[SLICES];
  const std::uint8_t* steps[SLICES];  // of the next window
};

// One step of one slice. WHOLE: no word ends inside a window, so only its first step loads one.
template <class Gather, bool WHOLE, int ROWS, int SLICES>
[[gnu::always_inline]] inline void window_step(F16 (&acc)[ROWS],
                                               const typename Gather::Window (&x)[ROWS],
                                               FloatStreams<Gather, SLICES>& at, int s, int step) {
  constexpr int kEntries = kLanes * Gather::kDot;  // of a step and of a word
  if ((!WHOLE || step == 0) && at.left[s] == 0) {
    at.positions[s] = Gather::load_positions(at.words[s]);
    at.words[s] += kEntries;
    at.left[s] = Gather::kPacking.per_word;
  }
  Gather::template accumulate_step<ROWS>(acc, x, at.positions[s], at.values[s]);
  at.positions[s] = Gather::next_step(at.positions[s]);
  at.values[s] += kEntries;
  if (!WHOLE) --at.left[s];
}

// The steps of one window.
template <class Gather, int STEPS, int ROWS, int SLICES>
[[gnu::always_inline]] inline void window_steps(F16 (&acc)[SLICES][ROWS],
                                                const typename Gather::Window (&x)[ROWS],
                                                FloatStreams<Gather, SLICES>& at) {
#pragma GCC unroll 4
  for (int s = 0; s < SLICES; ++s) {
    if constexpr (STEPS > 0) {
      constexpr bool kWhole = Gather::kPacking.per_word % STEPS == 0;
#pragma GCC unroll 16
      for (int step = 0; step < STEPS; ++step) {
        window_step<Gather, kWhole>(acc[s], x, at, s, step);
      }
      if (kWhole) at.left[s] -= STEPS;
    } else {
      const int count = *at.steps[s]++;
#pragma GCC unroll 2
      for (int step = 0; step < count; ++step) {
        window_step<Gather, false>(acc[s], x, at, s, step);
      }
    }
  }
}

template <class Gather, int ROWS, int SLICES, int STEPS>
inline void windowed_float_tile(const typename Gather::Weight& weight,
                                const FloatTile<typename Gather::Input>& tile, int first_row,
                                std::int64_t slice) {
  constexpr int kWidth = Gather::kPacking.window;
  constexpr int kEntries = kLanes * Gather::kDot;
  const std::int64_t whole = tile.inputs / kWidth;
  const int rest = static_cast<int>(tile.inputs % kWidth);
  const std::int64_t windows = tile.taps * (whole + (rest > 0));
  F16 acc[SLICES][ROWS];
  FloatStreams<Gather, SLICES> at;
#pragma GCC unroll 4
  for (int s = 0; s < SLICES; ++s) {
    const std::int64_t index = tile.first_slice + slice + s;
    at.values[s] = weight.values + weight.step_ptr[index] * kEntries;
    at.words[s] = weight.positions + weight.word_ptr[index] * kEntries;
    at.steps[s] = weight.steps + index * windows;
    at.left[s] = 0;
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) acc[s][r] = set_f(0.0f);
  }

  for (int tap = 0; tap < tile.taps; ++tap) {
    const typename Gather::Input* const* rows = tile.rows + tap * tile.row_count + first_row;
    typename Gather::Window x[ROWS];
#pragma GCC unroll 1
    for (std::int64_t base = 0; base < whole * kWidth; base += kWidth) {
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) x[r] = Gather::load(rows[r] + base);
      window_steps<Gather, STEPS>(acc, x, at);
    }
    if (rest == 0) continue;
    alignas(64) typename Gather::Input spare[ROWS][kWidth];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      x[r] = Gather::load_part(rows[r] + whole * kWidth, rest, spare[r]);
    }
    if (STEPS > 0) {
#pragma GCC unroll 4
      for (int s = 0; s < SLICES; ++s) at.steps[s] += whole;
    }
    window_steps<Gather, 0>(acc, x, at);
  }

  store_sums(acc, tile, first_row, slice);
}

template <class Gather, int ROWS, int STEPS>
void windowed_float_slices(const typename Gather::Weight& weight,
                           const FloatTile<typename Gather::Input>& tile, int first_row) {
  constexpr int kSlices = Gather::slices(ROWS);
  std::int64_t slice = 0;
  for (; slice + kSlices <= tile.slice_count; slice += kSlices) {
    windowed_float_tile<Gather, ROWS, kSlices, STEPS>(weight, tile, first_row, slice);
  }
  for (; slice < tile.slice_count; ++slice) {
    windowed_float_tile<Gather, ROWS, 1, STEPS>(weight, tile, first_row, slice);
  }
}

template <class Gather, int ROWS>
void windowed_float_rows(const typename Gather::Weight& weight,
                         const FloatTile<typename Gather::Input>& tile, int first_row, int count) {
  if (count < ROWS) {
    if constexpr (ROWS > 1) windowed_float_rows<Gather, ROWS - 1>(weight, tile, first_row, count);
    return;
  }
  if constexpr (Gather::kFixedSteps) {
    switch (weight.uniform_steps) {
      case 1:
        return windowed_float_slices<Gather, ROWS, 1>(weight, tile, first_row);
      case 2:
        return windowed_float_slices<Gather, ROWS, 2>(weight, tile, first_row);
      case 16:  // half of the longest window
        if constexpr (Gather::kPacking.window > 16 * Gather::kDot) {
          return windowed_float_slices<Gather, ROWS, 16>(weight, tile, first_row);
        }
        break;
      case 8:
        return windowed_float_slices<Gather, ROWS, 8>(weight, tile, first_row);
      case 4:
        return windowed_float_slices<Gather, ROWS, 4>(weight, tile, first_row);
    }
  }
  windowed_float_slices<Gather, ROWS, 0>(weight, tile, first_row);
}

template <class Gather>
void windowed_float(const typename Gather::Weight& weight,
                    const FloatTile<typename Gather::Input>& tile) {
  for (int row = 0; row < tile.row_count; row += kWindowedRows) {
    const int left = tile.row_count - row;
    windowed_float_rows<Gather, kWindowedRows>(weight, tile, row,
                                               left < kWindowedRows ? left : kWindowedRows);
  }
}
