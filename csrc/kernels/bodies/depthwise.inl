// Depthwise convolution: vectors along the channels of one pixel, taps innermost, so that a sum
// stays in a register.

void depthwise_s8(const DepthwiseS8& weight, const TileS8& tile) {
  const I16 offset = set_i(-tile.zero_point);
  for (std::int64_t s = 0; s < tile.slice_count; ++s) {
    const std::int64_t channel = (tile.first_slice + s) * kLanes;
    const std::int64_t left = tile.inputs - channel;
    const int lanes = left < kLanes ? static_cast<int>(left) : kLanes;
    const I16 start = mul_i(load_i(weight.weight_sums + channel), offset);
    for (int r = 0; r < tile.row_count; ++r) {
      I16 acc = start;
      for (int tap = 0; tap < tile.taps; ++tap) {
        const std::uint8_t* x = tile.rows[tap * tile.row_count + r] + channel;
        const std::int8_t* w = weight.values + tap * tile.inputs + channel;
        acc = add_i(acc, multiply_bytes(load_u8(x, lanes), load_s8(w, lanes)));
      }
      store_i(tile.acc + r * tile.acc_stride + s * kLanes, acc);
    }
  }
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
