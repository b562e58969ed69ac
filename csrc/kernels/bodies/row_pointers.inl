// Row pointers of a run of output pixels. The pixels of one output row whose tap lies inside the
// image are an interval, and their pointers an arithmetic progression.

inline int clamp_to(std::int64_t x, std::int64_t most) {
  return static_cast<int>(x < 0 ? 0 : x > most ? most : x);
}

void row_pointers_u8(const RowPointersU8& job) {
  const std::int64_t row = job.first / job.out_width, step = job.stride_w * job.channels;
  std::int64_t sample = row / job.out_height, oy = row % job.out_height;
  std::int64_t ox = job.first % job.out_width;
  for (std::int64_t done = 0; done < job.count;) {
    const std::int64_t left = job.count - done, fit = job.out_width - ox;
    const std::int64_t n = left < fit ? left : fit;
    const std::uint8_t* image = job.images + sample * job.height * job.width * job.channels;
    const std::uint8_t** to = job.pointers + done;
    for (std::int64_t ky = 0; ky < job.kernel_h; ++ky) {
      const std::int64_t iy = oy * job.stride_h - job.pad_top + ky * job.dilation_h;
      const bool inside = iy >= 0 && iy < job.height;
      for (std::int64_t kx = 0; kx < job.kernel_w; ++kx, to += job.count) {
        const std::int64_t ix = ox * job.stride_w - job.pad_left + kx * job.dilation_w;
        const std::int64_t offset = (iy * job.width + ix) * job.channels;
        const std::int64_t begin = inside ? job.inside[2 * kx] - ox : n;
        const std::int64_t end = inside ? job.inside[2 * kx + 1] - ox : n;
        for (std::int64_t i = 0; i < n; i += 8) {
          store_pointers(to + i, clamp_to(n - i, 8), image, offset + i * step, step,
                         clamp_to(begin - i, 8), clamp_to(end - i, 8), job.outside);
        }
      }
    }
    done += n;
    ox = 0;
    if (++oy == job.out_height) {
      oy = 0;
      ++sample;
    }
  }
}
