// Bytes by their places among 64, where no instruction picks them.

inline Bytes pick_bytes(const Bytes& from, const std::uint8_t* places, int n) {
  std::uint8_t bytes[64], picked[64];
  store_bytes(bytes, from);
  for (int i = 0; i < n; ++i) picked[i] = bytes[places[i]];
  return load_bytes_part(picked, n);
}
