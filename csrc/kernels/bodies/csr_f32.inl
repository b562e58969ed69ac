// The CSR fp32 kernel: vectors along the rows of x. Each kept weight is broadcast and multiplied
// into OUTPUTS x VECTORS accumulators; x is read in place as the operand of the multiply-add. A
// single row has vectors along the four outputs of a run instead. An output is one chain over its
// kept inputs whatever the tile, so the bits do not depend on it.

template <int OUTPUTS, int VECTORS>
inline void csr_f32_outputs(const float* panel, const float* values, const std::uint16_t* positions,
                            std::int64_t steps, const std::uint8_t* order, bool first, float* acc) {
  constexpr std::int64_t kStride = kLanes * VECTORS;
  F16 sums[OUTPUTS][VECTORS];
#pragma GCC unroll 4
  for (int o = 0; o < OUTPUTS; ++o) {
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) {
      sums[o][v] = first ? set_f(0.0f) : load_f(acc + order[o] * kStride + v * kLanes);
    }
  }
#pragma GCC unroll 1
  for (std::int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 4
    for (int o = 0; o < OUTPUTS; ++o) {
      const float* x = panel + positions[kCsrLanes * step + o] * kStride;
      const F16 weight = set_f(values[kCsrLanes * step + o]);
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) {
        sums[o][v] = multiply_add(load_f(x + v * kLanes), weight, sums[o][v]);
      }
    }
  }
#pragma GCC unroll 4
  for (int o = 0; o < OUTPUTS; ++o) {
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) {
      store_f(acc + order[o] * kStride + v * kLanes, sums[o][v]);
    }
  }
}

template <int OUTPUTS, int VECTORS>
void csr_f32_group(const CsrF32Run& weight, const CsrF32Tile& tile) {
  const float* values = weight.values;
  const std::uint16_t* positions = weight.positions;
  for (int run = 0; run < kCsrGroup / kCsrLanes; ++run) {
    const std::int64_t steps = weight.steps[run];
    if (steps == 0 && !tile.first) return;  // sorted: the rest keeps nothing either
    for (int o = 0; o < kCsrLanes; o += OUTPUTS) {
      csr_f32_outputs<OUTPUTS, VECTORS>(tile.panel, values + o, positions + o, steps,
                                        weight.order + run * kCsrLanes + o, tile.first, tile.acc);
    }
    values += kCsrLanes * steps;
    positions += kCsrLanes * steps;
  }
}

void csr_f32_row(const CsrF32Run& weight, const CsrF32Tile& tile) {
  const float* values = weight.values;
  const std::uint16_t* positions = weight.positions;
  for (int run = 0; run < kCsrGroup / kCsrLanes; ++run) {
    const std::int64_t steps = weight.steps[run];
    if (steps == 0 && !tile.first) return;
    const std::uint8_t* order = weight.order + run * kCsrLanes;
    F4 sums = tile.first ? set_four(0.0f) : pick_four(tile.acc, order);
    for (std::int64_t step = 0; step < steps; ++step) {
      sums = multiply_add(pick_four(tile.panel, positions), load_four(values), sums);
      values += kCsrLanes;
      positions += kCsrLanes;
    }
    alignas(16) float four[kCsrLanes];
    store_four(four, sums);
    for (int o = 0; o < kCsrLanes; ++o) tile.acc[order[o]] = four[o];
  }
}

void linear_csr_f32(const CsrF32Run& weight, const CsrF32Tile& tile) {
  switch (tile.panel_rows) {
    case 1:
      return csr_f32_row(weight, tile);
    case 16:
      return csr_f32_group<csr_outputs(1), 1>(weight, tile);
    case 32:
      return csr_f32_group<csr_outputs(2), 2>(weight, tile);
    case 48:
      return csr_f32_group<csr_outputs(3), 3>(weight, tile);
    default:
      return csr_f32_group<csr_outputs(4), 4>(weight, tile);
  }
}
