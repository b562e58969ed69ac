// Transposes of fp32 matrices, in blocks of 16 x 16. Blocks at the edges go through buffers, so
// that nothing is read past a row.

inline void transpose_edge(const float* from, std::int64_t from_stride, int rows, int columns,
                           float* to, std::int64_t to_stride) {
  alignas(64) float in[kLanes * kLanes], out[kLanes * kLanes];
  for (int r = 0; r < kLanes; ++r) {
    store_f(in + r * kLanes, r < rows ? load_lanes(from + r * from_stride, columns) : set_f(0.0f));
  }
  transpose_block(in, kLanes, out, kLanes);
  for (int c = 0; c < columns; ++c) store_f(to + c * to_stride, load_f(out + c * kLanes));
}

void transpose_f32(const TransposeF32& job) {
  for (std::int64_t r = 0; r < job.rows; r += kLanes) {
    const int rows = job.rows - r < kLanes ? static_cast<int>(job.rows - r) : kLanes;
    for (std::int64_t c = 0; c < job.columns; c += kLanes) {
      const int columns = job.columns - c < kLanes ? static_cast<int>(job.columns - c) : kLanes;
      const float* from = job.from + r * job.from_stride + c;
      float* to = job.to + c * job.to_stride + r;
      if (rows == kLanes && columns == kLanes) {
        transpose_block(from, job.from_stride, to, job.to_stride);
      } else {
        transpose_edge(from, job.from_stride, rows, columns, to, job.to_stride);
      }
    }
  }
}
