#include "ops/pool2d.h"

#include <algorithm>

#include "core/buffer.h"
#include "core/check.h"
#include "core/fpenv.h"
#include "core/sizes.h"
#include "core/threads.h"
#include "dispatch/dispatch.h"

namespace skd {
namespace {

std::int64_t out_size(std::int64_t size, std::int64_t kernel, std::int64_t stride,
                      std::int64_t dilation, std::int64_t pad, bool ceil_mode) {
  const std::int64_t room = size + 2 * pad - dilation * (kernel - 1) - 1;
  if (room < 0 && !(ceil_mode && room + stride > 0)) return 0;
  const std::int64_t count = (room + (ceil_mode ? stride - 1 : 0)) / stride + 1;
  return ceil_mode && (count - 1) * stride >= size + pad ? count - 1 : count;
}

// The taps of one window along an axis that lie inside the image.
struct Taps {
  std::int64_t first, count;  // first pixel of the image, and how many pixels
  std::int64_t with_padding;  // how many lie inside the image and its padding
};
Taps taps_of(std::int64_t index, std::int64_t size, std::int64_t kernel, std::int64_t stride,
             std::int64_t dilation, std::int64_t pad) {
  const std::int64_t start = index * stride - pad;
  const std::int64_t skipped = start < 0 ? ceil_div(-start, dilation) : 0;
  const std::int64_t first = start + skipped * dilation;
  const std::int64_t fit = first < size ? ceil_div(size - first, dilation) : 0;
  const std::int64_t reach = std::min(start + kernel, size + pad) - start;
  return {first, std::clamp<std::int64_t>(fit, 0, std::max<std::int64_t>(kernel - skipped, 0)),
          reach};
}

struct Walk {
  const PoolGeometry& g;
  const PoolShape& shape;
  std::int64_t out_height = g.out_height(shape.height), out_width = g.out_width(shape.width);

  std::int64_t out_rows() const { return shape.batch * out_height; }

  // Calls body(run, pixels with padding, first output column) for the runs of one output row whose
  // windows are alike; `image` is the start of its image in NHWC, run.y is not set.
  template <class T, class Body>
  void each_run(const T* image, std::int64_t oy, Range channels, const Body& body) const {
    const Taps rows = taps_of(oy, shape.height, g.kernel_h, g.stride_h, g.dilation_h, g.pad_h);
    const Range whole = whole_columns();
    for (std::int64_t ox = 0; ox < out_width;) {
      const Taps columns = taps_of(ox, shape.width, g.kernel_w, g.stride_w, g.dilation_w, g.pad_w);
      // Windows that lie inside the image as a whole are alike.
      const std::int64_t count = ox >= whole.begin && ox < whole.end ? whole.end - ox : 1;
      PoolRun<T> run{};
      run.x = image + (rows.first * shape.width + columns.first) * shape.channels + channels.begin;
      run.count = count;
      run.step = g.stride_w * shape.channels;
      run.rows = rows.count;
      run.row_stride = g.dilation_h * shape.width * shape.channels;
      run.columns = columns.count;
      run.column_stride = g.dilation_w * shape.channels;
      if (run.row_stride == run.columns * run.column_stride) {  // such as a whole image
        run.columns *= run.rows;
        run.rows = 1;
      }
      if (run.rows * run.columns == 0) run.x = image;
      run.channels = channels.end - channels.begin;
      body(run, rows.with_padding * columns.with_padding, ox);
      ox += count;
    }
  }

 private:
  // The output columns whose windows lie inside the image.
  Range whole_columns() const {
    const std::int64_t room = shape.width + g.pad_w - g.dilation_w * (g.kernel_w - 1) - 1;
    const std::int64_t end = room < 0 ? 0 : std::min(room / g.stride_w + 1, out_width);
    return {ceil_div(g.pad_w, g.stride_w), end};
  }
};

void check_images(const PoolGeometry& g, const PoolShape& s, const PoolInput& x,
                  const PoolOutput& y) {
  constexpr std::int64_t kMost = 1LL << 40;  // no sum with padding below overflows
  require(s.batch >= 0 && s.channels >= 1 && s.height >= 0 && s.width >= 0 && s.height <= kMost &&
              s.width <= kMost,
          "images: batch ", s.batch, ", channels ", s.channels, ", height ", s.height, ", width ",
          s.width, "; expected at least 1 channel, and sides of 0..2^40");
  const std::int64_t height = g.out_height(s.height), width = g.out_width(s.width);
  require(s.height >= 1 && s.width >= 1 && height >= 1 && width >= 1, "images of ", s.height, " x ",
          s.width, ": the output would be empty");
  checked_mul(checked_mul(checked_mul(s.batch, s.height), s.width), checked_mul(s.channels, 4));
  checked_mul(checked_mul(checked_mul(s.batch, height), width), checked_mul(s.channels, 4));
  require(s.batch == 0 ||
              ((x.f32 == nullptr) != (x.u8 == nullptr) && (y.f32 == nullptr) != (y.u8 == nullptr)),
          "input and output: expected either fp32 or u8 data");
  require(y.u8 == nullptr || x.f32 == nullptr, "u8 output: expected u8 input");
  require((x.u8 == nullptr || x.layout == Layout::nhwc) &&
              (y.u8 == nullptr || y.layout == Layout::nhwc),
          "u8 images: expected NHWC");
  require(x.layout == y.layout || (s.batch != 0 && x.u8 != nullptr && y.f32 == nullptr),
          "output: expected the layout of the input");
}

// A region of threads costs about what one core reads in 100 KB.
constexpr std::int64_t kWorthBytes = 256 << 10;

// Shares output rows among threads, or channels where there are few rows: body(rows, channels).
template <class Body>
void share(const Walk& walk, std::int64_t bytes, int threads, const Body& body) {
  const std::int64_t rows = walk.out_rows(), blocks = ceil_div(walk.shape.channels, 64);
  const int team = bytes >= kWorthBytes ? usable_threads(threads) : 1;
  parallel(team, [&](int thread, int count) {
    if (rows >= count || blocks < count) {
      return body(part_of(rows, thread, count), Range{0, walk.shape.channels});
    }
    const Range part = part_of(blocks, thread, count);
    body(Range{0, rows}, Range{part.begin * 64, std::min(part.end * 64, walk.shape.channels)});
  });
}

// kernel(run, pixels with padding) writes run.y.
template <class T, class Out, class Kernel>
void pool_nhwc(const Walk& walk, const T* x, Out* y, int threads, const Kernel& kernel) {
  const PoolShape& s = walk.shape;
  const std::int64_t image = s.height * s.width * s.channels;
  const std::int64_t taps = walk.g.kernel_h * walk.g.kernel_w;
  const std::int64_t bytes =
      std::min<std::int64_t>(s.batch * image, walk.out_rows() * walk.out_width * s.channels *
                                                  std::min<std::int64_t>(taps, 9));
  share(walk, bytes * static_cast<std::int64_t>(sizeof(T)), threads,
        [&](Range rows, Range channels) {
          for (std::int64_t row = rows.begin; row < rows.end; ++row) {
            Out* to = y + row * walk.out_width * s.channels + channels.begin;
            walk.each_run(x + row / walk.out_height * image, row % walk.out_height, channels,
                          [&](PoolRun<T>& run, std::int64_t padded, std::int64_t ox) {
                            run.y_stride = s.channels;
                            kernel(run, padded, to + ox * s.channels);
                          });
          }
        });
}

// fp32 NCHW: 16 planes at a time are turned, pooled and turned back.
template <class Kernel>
void pool_nchw(const PoolGeometry& g, const PoolShape& s, const float* x, float* y, int threads,
               const Kernel& kernel) {
  const std::int64_t pixels = s.height * s.width;
  const std::int64_t parts = ceil_div(s.channels, kLanes);
  const std::int64_t out_pixels = g.out_height(s.height) * g.out_width(s.width);
  const bool many = s.batch * s.channels * pixels * 4 >= kWorthBytes;
  const int team = many ? usable_threads(threads) : 1;
  thread_local Buffer<float> scratch;
  const std::int64_t each = (pixels + out_pixels) * kLanes;
  float* memory = scratch.reserve(checked_mul(each, team));
  parallel(team, [&](int thread, int count) {
    float* turned = memory + thread * each;
    float* pooled = turned + pixels * kLanes;
    const Range mine = part_of(s.batch * parts, thread, count);
    for (std::int64_t i = mine.begin; i < mine.end; ++i) {
      const std::int64_t begin = i % parts * kLanes;
      const std::int64_t some = std::min<std::int64_t>(kLanes, s.channels - begin);
      const std::int64_t plane = i / parts * s.channels + begin;
      to_nhwc(x + plane * pixels, {pixels, some}, 0, pixels, turned);
      const PoolShape part{1, some, s.height, s.width};
      const Walk walk{g, part};
      for (std::int64_t oy = 0; oy < walk.out_height; ++oy) {
        walk.each_run(turned, oy, {0, some},
                      [&](PoolRun<float>& run, std::int64_t padded, std::int64_t ox) {
                        run.y_stride = some;
                        kernel(run, padded, pooled + (oy * walk.out_width + ox) * some);
                      });
      }
      store_planes(pooled, some, out_pixels, some, y + plane * out_pixels, out_pixels);
    }
  });
}

template <class Kernel>
void pool_f32(const Walk& walk, const PoolInput& x, const PoolOutput& y, int threads,
              const Kernel& kernel) {
  if (x.layout == Layout::nchw) {
    return pool_nchw(walk.g, walk.shape, x.f32, y.f32, threads, kernel);
  }
  pool_nhwc(walk, x.f32, y.f32, threads, kernel);
}

}  // namespace

std::int64_t PoolGeometry::out_height(std::int64_t height) const {
  return out_size(height, kernel_h, stride_h, dilation_h, pad_h, ceil_mode);
}
std::int64_t PoolGeometry::out_width(std::int64_t width) const {
  return out_size(width, kernel_w, stride_w, dilation_w, pad_w, ceil_mode);
}

void PoolGeometry::check() const {
  constexpr std::int64_t kMost = 1 << 20;  // far past any use, so that no product overflows
  const auto within = [&](const char* what, std::int64_t value, std::int64_t least) {
    require(value >= least && value <= kMost, what, ": ", value, ", expected ", least, "..", kMost);
  };
  for (const std::int64_t k : {kernel_h, kernel_w}) within("kernel_size", k, 1);
  for (const std::int64_t s : {stride_h, stride_w}) within("stride", s, 1);
  for (const std::int64_t d : {dilation_h, dilation_w}) within("dilation", d, 1);
  const auto half = [&](std::int64_t pad, std::int64_t kernel, std::int64_t dilation) {
    within("padding", pad, 0);
    const std::int64_t window = (kernel - 1) * dilation + 1;
    require(pad <= window / 2, "padding: ", pad, ", expected at most half of the window's ",
            window);
  };
  half(pad_h, kernel_h, dilation_h);
  half(pad_w, kernel_w, dilation_w);
}

void max_pool2d(const PoolGeometry& geometry, const PoolShape& shape, const PoolInput& x,
                const PoolOutput& y, int threads, const KernelTable* table) {
  geometry.check();
  check_images(geometry, shape, x, y);
  require(shape.batch == 0 || (x.u8 == nullptr) == (y.u8 == nullptr),
          "output: expected the dtype of the input");
  if (shape.batch == 0) return;
  const KernelTable& chosen = table == nullptr ? kernels() : *table;
  const Walk walk{geometry, shape};
  if (x.u8 != nullptr) {
    return pool_nhwc(walk, x.u8, y.u8, threads,
                     [&](PoolRun<std::uint8_t>& run, std::int64_t, std::uint8_t* to) {
                       run.y = to;
                       chosen.max_pool_u8(run);
                     });
  }
  pool_f32(walk, x, y, threads, [&](PoolRun<float>& run, std::int64_t, float* to) {
    run.y = to;
    chosen.max_pool_f32(run);
  });
}

void avg_pool2d(const PoolGeometry& geometry, const PoolShape& shape, const PoolInput& x,
                const PoolOutput& y, PoolDivisor divisor, int threads, const KernelTable* table) {
  geometry.check();
  check_images(geometry, shape, x, y);
  require(geometry.dilation_h == 1 && geometry.dilation_w == 1, "dilation: ", geometry.dilation_h,
          " x ", geometry.dilation_w, ", expected 1 x 1");
  require(divisor.override_by >= 0 && divisor.override_by <= (1LL << 31),
          "divisor_override: ", divisor.override_by, ", expected 1..2^31");
  if (x.u8 != nullptr) {
    constexpr std::int64_t kMost = 1 << 23;  // pixels of 255 whose sum fits 31 bits
    const std::int64_t rows = std::min(geometry.kernel_h, shape.height);
    const std::int64_t columns = std::min(geometry.kernel_w, shape.width);
    require(checked_mul(rows, columns) <= kMost, "window of ", rows, " x ", columns,
            " u8 pixels, expected at most 2^23 of them");
    check_u8("input", x.scale.scale, x.scale.zero_point);
  }
  if (y.u8 != nullptr) check_u8("output", y.scale.scale, y.scale.zero_point);
  if (shape.batch == 0) return;
  const DefaultFloatEnvironment environment;  // for the reciprocal of the output's scale
  const KernelTable& chosen = table == nullptr ? kernels() : *table;
  const Walk walk{geometry, shape};
  const auto divide_by = [&](std::int64_t inside, std::int64_t padded) {
    const std::int64_t by = divisor.override_by != 0 ? divisor.override_by
                            : divisor.include_pad    ? padded
                                                     : inside;
    return static_cast<float>(by);
  };
  if (x.u8 == nullptr) {
    return pool_f32(walk, x, y, threads, [&](PoolRun<float>& run, std::int64_t padded, float* to) {
      run.y = to;
      chosen.average_pool_f32(run, divide_by(run.rows * run.columns, padded));
    });
  }
  const float inverse = y.u8 == nullptr ? 1.0f : 1.0f / y.scale.scale;
  const auto job = [&](const PoolRun<std::uint8_t>& run, std::int64_t padded) {
    const float by = divide_by(run.rows * run.columns, padded);
    return AveragePoolU8{run,     x.scale.zero_point, x.scale.scale * (1.0f / by),
                         inverse, y.scale.zero_point, nullptr};
  };
  if (y.u8 != nullptr) {
    return pool_nhwc(walk, x.u8, y.u8, threads,
                     [&](PoolRun<std::uint8_t>& run, std::int64_t padded, std::uint8_t* to) {
                       run.y = to;
                       chosen.average_pool_u8(job(run, padded));
                     });
  }
  pool_nhwc(walk, x.u8, y.f32, threads,
            [&](PoolRun<std::uint8_t>& run, std::int64_t padded, float* to) {
              AveragePoolU8 average = job(run, padded);
              average.y_f32 = to;
              chosen.average_pool_u8(average);
            });
}

}  // namespace skd
