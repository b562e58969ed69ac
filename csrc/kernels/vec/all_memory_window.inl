// For windows that stay in memory: a copy with zeros where the row has ended.

template <int WIDTH, class Input>
inline const Input* zero_filled(const Input* p, int n, Input* spare) {
  std::memset(spare, 0, WIDTH * sizeof(Input));
  std::memcpy(spare, p, static_cast<std::size_t>(n) * sizeof(Input));
  return spare;
}
