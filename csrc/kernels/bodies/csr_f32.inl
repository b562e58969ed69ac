// The CSR fp32 kernel: vectors along the rows of x. Each kept weight is broadcast and multiplied
// into OUTPUTS x VECTORS accumulators; x is read in place as the operand of the multiply-add. Rows
// is F16, or float for a single row. An output is one chain over its kept inputs whatever the tile,
// so the bits do not depend on it.

inline void load_rows(F16& to, const float* p) { to = load_f(p); }
inline void load_rows(float& to, const float* p) { to = *p; }
inline void store_rows(float* p, const F16& x) { store_f(p, x); }
inline void store_rows(float* p, float x) { *p = x; }
inline void spread(F16& to, float x) { to = set_f(x); }
inline void spread(float& to, float x) { to = x; }

template <class Rows, int OUTPUTS, int VECTORS>
inline void csr_f32_outputs(const float* panel, const float* values, const std::uint16_t* positions,
                            std::int64_t steps, const std::uint8_t* order, bool first, float* acc) {
  constexpr std::int64_t kWidth = sizeof(Rows) / sizeof(float);
  constexpr std::int64_t kStride = kWidth * VECTORS;
  Rows sums[OUTPUTS][VECTORS];
#pragma GCC unroll 4
  for (int o = 0; o < OUTPUTS; ++o) {
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) {
      first ? spread(sums[o][v], 0.0f)
            : load_rows(sums[o][v], acc + order[o] * kStride + v * kWidth);
    }
  }
#pragma GCC unroll 1
  for (std::int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 4
    for (int o = 0; o < OUTPUTS; ++o) {
      const float* x = panel + positions[kCsrLanes * step + o] * kStride;
      Rows weight;
      spread(weight, values[kCsrLanes * step + o]);
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) {
        Rows part;
        load_rows(part, x + v * kWidth);
        sums[o][v] = multiply_add(part, weight, sums[o][v]);
      }
    }
  }
#pragma GCC unroll 4
  for (int o = 0; o < OUTPUTS; ++o) {
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) {
      store_rows(acc + order[o] * kStride + v * kWidth, sums[o][v]);
    }
  }
}

template <class Rows, int OUTPUTS, int VECTORS>
void csr_f32_group(const CsrF32Run& weight, const CsrF32Tile& tile) {
  const float* values = weight.values;
  const std::uint16_t* positions = weight.positions;
  for (int run = 0; run < kCsrGroup / kCsrLanes; ++run) {
    const std::int64_t steps = weight.steps[run];
    if (steps == 0 && !tile.first) return;  // sorted: the rest keeps nothing either
    for (int o = 0; o < kCsrLanes; o += OUTPUTS) {
      csr_f32_outputs<Rows, OUTPUTS, VECTORS>(tile.panel, values + o, positions + o, steps,
                                              weight.order + run * kCsrLanes + o, tile.first,
                                              tile.acc);
    }
    values += kCsrLanes * steps;
    positions += kCsrLanes * steps;
  }
}

void linear_csr_f32(const CsrF32Run& weight, const CsrF32Tile& tile) {
  switch (tile.panel_rows) {
    case 1:
      return csr_f32_group<float, kCsrLanes, 1>(weight, tile);
    case 16:
      return csr_f32_group<F16, csr_outputs(1), 1>(weight, tile);
    case 32:
      return csr_f32_group<F16, csr_outputs(2), 2>(weight, tile);
    case 48:
      return csr_f32_group<F16, csr_outputs(3), 3>(weight, tile);
    default:
      return csr_f32_group<F16, csr_outputs(4), 4>(weight, tile);
  }
}
