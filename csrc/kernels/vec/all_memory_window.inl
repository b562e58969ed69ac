// Windows that stay in memory: the row itself, or a copy with zeros where the row has ended.

template <int WIDTH, class Input>
inline const Input* whole_window(const Input* p, int n, Input* spare) {
  if (n == WIDTH) return p;
  std::memset(spare, 0, WIDTH * sizeof(Input));
  std::memcpy(spare, p, static_cast<std::size_t>(n) * sizeof(Input));
  return spare;
}
