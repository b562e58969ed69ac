// Depthwise convolution: vectors along the channels of a pixel, taps innermost, so that a sum stays
// in a register. s8: 64 channels at a time, the bytes of four taps interleaved, so that one dot
// product adds four taps of 16 channels. Sums and weights stand in the order that the unpacks give
// (vec: interleave), which the packs of the output undo.

// Adds the next TAPS taps, at most four, of which `rows` has the pointers of the first pixel.
template <int TAPS, bool WHOLE, int PIXELS>
inline void depthwise_s8_taps(I16 (&acc)[PIXELS][4], const std::uint8_t* const* rows,
                              std::int64_t row_count, const std::int8_t* w, std::int64_t channel,
                              int channels) {
#pragma GCC unroll 4
  for (int p = 0; p < PIXELS; ++p) {
    Bytes x[kDot], mixed[4];
#pragma GCC unroll 4
    for (int i = 0; i < kDot; ++i) {
      if (i >= TAPS) {
        x[i] = zero_bytes();
        continue;
      }
      const std::uint8_t* from = rows[i * row_count + p] + channel;
      x[i] = WHOLE ? load_bytes(from) : load_bytes_part(from, channels);
    }
    interleave(x, mixed);
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) dot(acc[p][q], mixed[q], load_dense(w + 64 * q));
  }
}

// The loops over pixels are unrolled, so that the sums stay in registers: indexed by a variable
// they would go to memory and back with every dot product.
template <int PIXELS, bool WHOLE>
inline void depthwise_s8_tile(const DepthwiseS8& weight, const TileS8& tile, int first_row,
                              std::int64_t block, int channels) {
  const int quads = (tile.taps + kDot - 1) / kDot;
  const std::int64_t channel = kDepthwiseChannels * block, row_count = tile.row_count;
  const std::int8_t* w = weight.quads + block * quads * kDepthwiseChannels * kDot;
  I16 acc[PIXELS][4];
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {
    const I16 start = mul_i(load_i(weight.weight_sums + channel + kLanes * q),
                            set_i(kInputOffset - tile.zero_point));
#pragma GCC unroll 4
    for (int p = 0; p < PIXELS; ++p) acc[p][q] = start;
  }
  const std::uint8_t* const* rows = tile.rows + first_row;
  int taps = tile.taps;
#pragma GCC unroll 1
  for (; taps >= kDot; taps -= kDot) {
    depthwise_s8_taps<kDot, WHOLE>(acc, rows, row_count, w, channel, channels);
    rows += kDot * row_count;
    w += kDepthwiseChannels * kDot;
  }
  if (taps == 1) depthwise_s8_taps<1, WHOLE>(acc, rows, row_count, w, channel, channels);
  if (taps == 2) depthwise_s8_taps<2, WHOLE>(acc, rows, row_count, w, channel, channels);
  if (taps == 3) depthwise_s8_taps<3, WHOLE>(acc, rows, row_count, w, channel, channels);

  if (tile.requantize == nullptr) {
#pragma GCC unroll 4
    for (int p = 0; p < PIXELS; ++p) {
      alignas(64) std::int32_t sums[kDepthwiseChannels];
      store_interleaved(sums, acc[p]);
      const std::int64_t first = channel - tile.first_slice * kLanes;
      const std::int64_t left = tile.slice_count * kLanes - first;
      for (std::int64_t c = 0; c < kDepthwiseChannels && c < left; c += kLanes) {
        store_i(tile.acc + (first_row + p) * tile.acc_stride + first + c, load_i(sums + c));
      }
    }
    return;
  }
  const RequantizeU8& to = *tile.requantize;
  const std::int64_t column = channel - tile.first_slice * kLanes;
  const ByteRange range = byte_range(to.zero_point, to.low, to.high);
  const F16 inverse = set_f(to.inverse_scale);
  F16 scale[4], bias[4];
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {
    scale[q] = load_f(to.scale + column + kLanes * q);
    bias[q] = load_f(to.bias + column + kLanes * q);
  }
#pragma GCC unroll 4
  for (int p = 0; p < PIXELS; ++p) {
    const Bytes u = requantize(acc[p], scale, bias, inverse, range);
    std::uint8_t* y = to.y + (first_row + p) * to.y_stride + column;
    WHOLE ? store_bytes(y, u) : store_bytes_part(y, u, channels);
  }
}

template <int PIXELS>
inline void depthwise_s8_pixels(const DepthwiseS8& weight, const TileS8& tile, int first_row) {
  const std::int64_t first = tile.first_slice * kLanes, last = first + tile.slice_count * kLanes;
  std::int64_t channel = first;
  for (; channel < last; channel += kDepthwiseChannels) {
    const std::int64_t left = tile.inputs - channel, block = channel / kDepthwiseChannels;
    if (left >= kDepthwiseChannels) {
      depthwise_s8_tile<PIXELS, true>(weight, tile, first_row, block, kDepthwiseChannels);
    } else {
      depthwise_s8_tile<PIXELS, false>(weight, tile, first_row, block, static_cast<int>(left));
    }
  }
}

void depthwise_s8(const DepthwiseS8& weight, const TileS8& tile) {
  int row = 0;
  for (; row + 2 <= tile.row_count; row += 2) depthwise_s8_pixels<2>(weight, tile, row);
  if (row < tile.row_count) depthwise_s8_pixels<1>(weight, tile, row);
}

void depthwise_f32(const DepthwiseF32& weight, const TileF32& tile) {
  for (std::int64_t s = 0; s < tile.slice_count; ++s) {
    const std::int64_t channel = (tile.first_slice + s) * kLanes;
    const std::int64_t left = tile.inputs - channel;
    const int lanes = left < kLanes ? static_cast<int>(left) : kLanes;
    for (int r = 0; r < tile.row_count; ++r) {
      F16 acc = set_f(0.0f);
      for (int tap = 0; tap < tile.taps; ++tap) {
        const float* x = tile.rows[tap * tile.row_count + r] + channel;
        const float* w = weight.values + tap * tile.inputs + channel;
        acc = add(acc, mul(load_lanes(x, lanes), load_lanes(w, lanes)));
      }
      store_f(tile.acc + r * tile.acc_stride + s * kLanes, acc);
    }
  }
}
