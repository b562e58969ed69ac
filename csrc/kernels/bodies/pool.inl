// Pooling, vectors along the channels: each output pixel walks its window with the result in a
// register.

// Calls block(channel, n) for 64 channels at a time; n < 64 in the last.
template <int WIDTH, class Block>
inline void each_block(std::int64_t channels, const Block& block) {
  for (std::int64_t c = 0; c < channels; c += WIDTH) {
    block(c, channels - c < WIDTH ? static_cast<int>(channels - c) : WIDTH);
  }
}

inline Bytes load_first(const std::uint8_t* p, int n) {
  return n == 64 ? load_bytes(p) : load_bytes_part(p, n);
}
inline void store_first(std::uint8_t* p, const Bytes& x, int n) {
  n == 64 ? store_bytes(p, x) : store_bytes_part(p, x, n);
}

void max_pool_u8(const PoolRun<std::uint8_t>& run) {
  for (std::int64_t i = 0; i < run.count; ++i) {
    each_block<64>(run.channels, [&](std::int64_t c, int n) {
      Bytes most = zero_bytes();
      for (std::int64_t row = 0; row < run.rows; ++row) {
        const std::uint8_t* x = run.x + i * run.step + row * run.row_stride + c;
        for (std::int64_t column = 0; column < run.columns; ++column, x += run.column_stride) {
          most = max_bytes(most, load_first(x, n));
        }
      }
      store_first(run.y + i * run.y_stride + c, most, n);
    });
  }
}

// Folds the windows of a run in fp32: fold(so far, next).
template <class Fold, class Finish>
inline void pool_f32(const PoolRun<float>& run, const F16& start, const Fold& fold,
                     const Finish& finish) {
  for (std::int64_t i = 0; i < run.count; ++i) {
    each_block<kLanes>(run.channels, [&](std::int64_t c, int n) {
      F16 folded = start;
      for (std::int64_t row = 0; row < run.rows; ++row) {
        const float* x = run.x + i * run.step + row * run.row_stride + c;
        for (std::int64_t column = 0; column < run.columns; ++column, x += run.column_stride) {
          folded = fold(folded, load_lanes(x, n));
        }
      }
      store_lanes(run.y + i * run.y_stride + c, finish(folded), n);
    });
  }
}

void max_pool_f32(const PoolRun<float>& run) {
  pool_f32(
      run, set_f(-std::numeric_limits<float>::infinity()),
      [](const F16& most, const F16& x) { return greater(most, x); },
      [](const F16& most) { return most; });
}
void average_pool_f32(const PoolRun<float>& run, float divisor) {
  pool_f32(
      run, set_f(0.0f), [](const F16& sum, const F16& x) { return add(sum, x); },
      [&](const F16& sum) { return div(sum, set_f(divisor)); });
}

// Weights of a dot product that adds the first TAPS of four taps.
struct TapWeights {
  alignas(64) std::int8_t of[kDot + 1][64];
};
constexpr TapWeights tap_weights() {
  TapWeights weights{};
  for (int taps = 0; taps <= kDot; ++taps) {
    for (int i = 0; i < 64; ++i) weights.of[taps][i] = i % kDot < taps;
  }
  return weights;
}
constexpr TapWeights kTapWeights = tap_weights();

// The sums of one window, in the order of pack_bytes: four pixels of a row a dot product, as the
// depthwise convolution has them.
inline void sum_window(const AveragePoolU8& job, const std::uint8_t* first, int n, I16 (&acc)[4]) {
  const PoolRun<std::uint8_t>& run = job.run;
  const auto pixels = static_cast<std::int32_t>(run.rows * run.columns);
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) acc[q] = set_i(pixels * (kInputOffset - job.zero_point));
  for (std::int64_t row = 0; row < run.rows; ++row) {
    const std::uint8_t* x = first + row * run.row_stride;
    for (std::int64_t column = 0; column < run.columns; column += kDot) {
      const std::int64_t left = run.columns - column;
      const int taps = left < kDot ? static_cast<int>(left) : kDot;
      Bytes pixel[kDot], mixed[4];
#pragma GCC unroll 4
      for (int i = 0; i < kDot; ++i) {
        pixel[i] = i < taps ? load_first(x + (column + i) * run.column_stride, n) : zero_bytes();
      }
      interleave(pixel, mixed);
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) dot(acc[q], mixed[q], load_dense(kTapWeights.of[taps]));
    }
  }
}

void average_pool_u8(const AveragePoolU8& job) {
  const PoolRun<std::uint8_t>& run = job.run;
  const F16 scale = set_f(job.scale), inverse = set_f(job.inverse_scale);
  const F16 low = set_f(static_cast<float>(-job.out_zero_point));
  const F16 high = set_f(static_cast<float>(255 - job.out_zero_point));
  const ByteRange range = byte_range(job.out_zero_point, 0, 255);
  for (std::int64_t i = 0; i < run.count; ++i) {
    each_block<64>(run.channels, [&](std::int64_t c, int n) {
      I16 acc[4];
      sum_window(job, run.x + i * run.step + c, n, acc);
      if (job.y_f32 != nullptr) {
        alignas(64) std::int32_t sums[64];
        store_interleaved(sums, acc);
        float* y = job.y_f32 + i * run.y_stride + c;
        each_block<kLanes>(n, [&](std::int64_t at, int lanes) {
          store_lanes(y + at, mul(to_float(load_i(sums + at)), scale), lanes);
        });
        return;
      }
      I16 u[4];
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) {
        const F16 y = mul(mul(to_float(acc[q]), scale), inverse);
        u[q] = round_i(at_most(at_least(y, low), high));
      }
      store_first(run.y + i * run.y_stride + c, pack_bytes(u, range), n);
    });
  }
}
