// Row pointers without vectors of them; avx512.inl says what they are.

inline void store_pointers(const std::uint8_t** to, int n, const std::uint8_t* base,
                           std::int64_t offset, std::int64_t step, int begin, int end,
                           const std::uint8_t* outside) {
  for (int i = 0; i < n; ++i) {
    to[i] = i >= begin && i < end ? base + (offset + i * step) : outside;
  }
}
