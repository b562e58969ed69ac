// bf16: the entry of the windowed loop and the rounding of rows.
//
// One lane and step is  acc = fma(x1, v1, acc); acc = fma(x0, v0, acc)  with subnormal results
// flushed to zero, which is what vdpbf16ps does; the tables without that instruction do the same
// with fp32 FMAs, so all give the same bits.

void linear_windowed_bf16(const WindowedBf16& weight, const TileBf16& tile) {
  const Bf16Environment environment;
  windowed_float<GatherBf16>(weight, tile);
}

void to_bf16(const float* x, std::int64_t count, std::uint16_t* bits) {
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store_bf16(bits + i, load_f(x + i));
  if (i == count) return;
  const int rest = static_cast<int>(count - i);
  alignas(64) std::uint16_t buffer[kLanes];
  store_bf16(buffer, load_f_part(x + i, rest));
  std::memcpy(bits + i, buffer, static_cast<std::size_t>(rest) * sizeof *bits);
}
