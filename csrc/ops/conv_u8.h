// int8 convolutions from u8 rows straight to u8: no sums in memory. Output pixels of all images are
// counted in one sequence, since a static scale is the same for all of them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/sizes.h"
#include "core/threads.h"
#include "formats/sliced_outputs.h"
#include "ops/conv_call.h"
#include "ops/conv_runs.h"

namespace skd {

// How threads share rows and columns of work: `rows` x `columns` of them, each with one part.
struct ThreadGrid {
  int rows, columns;
};
// The grid whose busiest thread computes the fewest slices of pixels; of equals the one that cuts
// the pixels, or the columns.
inline ThreadGrid grid_of(int threads, std::int64_t pixels, const SlicedOutputs& outputs,
                          bool cut_columns) {
  // Columns are cut between blocks of 64 outputs, the first threads getting the most.
  const auto slices_of = [&](int columns) {
    return outputs.first_slice(part_of(outputs.blocks(), 0, columns).end);
  };
  ThreadGrid best{threads, 1};
  std::int64_t least = -1;
  for (int i = 1; i <= threads; ++i) {
    const int columns = cut_columns ? threads + 1 - i : i;
    if (threads % columns != 0) continue;
    const std::int64_t work = ceil_div(pixels, threads / columns) * slices_of(columns);
    if (least < 0 || work < least) {
      least = work;
      best = {threads / columns, columns};
    }
  }
  return best;
}

struct ConvU8Call {
  const KernelTable& table;
  const ConvGeometry& geometry;
  SlicedOutputs outputs;
  std::int64_t group_inputs;  // bytes of a tap that an output reads
  std::int32_t zero_point;
  std::int64_t pixels;        // output pixels of all images
  int tile_rows;              // of the kernel: chunks are multiples of it
  std::int64_t weight_bytes;  // of all slices
  RowPointersU8 rows;         // sizes; no images and no run of pixels yet
  RequantizeU8 output;        // of the first pixel and slice; columns not set
  bool streams;               // so little work a byte that input is waited for (depthwise)

  // Output pixels that are handled at once: their row pointers and their input stay in L1, while
  // there are enough of them for every weight that they bring there.
  std::int64_t chunk() const {
    constexpr std::int64_t kPointers = 1024, kInputBytes = 24 << 10, kTiles = 4;
    const std::int64_t inputs = geometry.rows ? geometry.taps() * group_inputs : rows.channels;
    const std::int64_t fit = std::min(kPointers / geometry.taps(), kInputBytes / inputs);
    return round_up(std::max(fit, kTiles * tile_rows), tile_rows);
  }
  std::int64_t pointer_count() const { return geometry.taps() * std::min(chunk(), pixels); }
  // Bytes of patches that one thread needs.
  std::int64_t patch_size() const { return has_patches() ? pointer_count() * group_inputs : 0; }

  // The part of one thread. kernel(tile) computes a tile of the slices of one group.
  template <class Kernel>
  void run(const std::uint8_t* images, const Kernel& kernel, const std::uint8_t** pointers,
           std::uint8_t* patches, int thread, int threads) const {
    const bool cut_columns = weight_bytes > rows.height * rows.width * rows.channels;
    const ThreadGrid grid = grid_of(threads, pixels, outputs, cut_columns);
    const Range mine = part_of(pixels, thread / grid.columns, grid.rows);
    const Range some = part_of(outputs.blocks(), thread % grid.columns, grid.columns);
    const Range slices{outputs.first_slice(some.begin), outputs.first_slice(some.end)};
    const double bytes = number(mine.end - mine.begin) * bytes_per_pixel();
    const bool ahead = streams && bytes > kCached;
    const std::int64_t most = ahead ? std::min(chunk(), kAheadPixels) : chunk();
    const std::int64_t chunks = ceil_div(mine.end - mine.begin, most);
    for (std::int64_t i = 0; i < chunks; ++i) {
      const Range share = part_of(mine.end - mine.begin, i, chunks);
      const Range part{mine.begin + share.begin, mine.begin + share.end};
      if (ahead) prefetch(images, part, mine.end);
      compute(images, kernel, pointers, patches, part, slices);
    }
  }

 private:
  // Input that comes from beyond L2 is asked for so far before its use, as many pixels at a time.
  static constexpr std::int64_t kCached = 256 << 10, kAheadBytes = 2048, kAheadPixels = 16;

  static double number(std::int64_t n) { return static_cast<double>(n); }

  // Of the input, for each output pixel.
  double bytes_per_pixel() const {
    return number(rows.height) * number(rows.width) * number(rows.channels) /
           (number(rows.out_height) * number(rows.out_width));
  }

  // Asks for the lines of input that the output pixels of `part` are the first to need. Both grow
  // in step: where pixel i stands at byte i * bytes_per_pixel, its last row stands kernel_h - 1
  // rows further. Nothing past what the pixels up to `last` need is asked for. Inlined, because gcc
  // takes a function of nothing but prefetches for one without effects and drops its calls.
  [[gnu::always_inline]] void prefetch(const std::uint8_t* images, Range part,
                                       std::int64_t last) const {
    constexpr std::int64_t kLine = 64;
    const double below = number(rows.kernel_h - 1) * number(rows.dilation_h) - number(rows.pad_top);
    const double row = number(rows.width) * number(rows.channels);
    const double reach = std::max(0.0, below + 1.0) * row;
    const double all = bytes_per_pixel() * number(pixels);
    const auto needed = [&](std::int64_t pixel, std::int64_t more) {
      const double at = bytes_per_pixel() * number(pixel) + reach + number(more);
      return static_cast<std::int64_t>(std::min(at, all)) / kLine * kLine;
    };
    const std::int64_t end = std::min(needed(part.end, kAheadBytes), needed(last, 0));
    for (std::int64_t at = needed(part.begin, kAheadBytes); at < end; at += kLine) {
      __builtin_prefetch(images + at);
    }
  }

  bool has_patches() const { return geometry.rows && geometry.pad_left + geometry.pad_right > 0; }

  template <class Kernel>
  void compute(const std::uint8_t* images, const Kernel& kernel, const std::uint8_t** pointers,
               std::uint8_t* patches, Range part, Range slices) const {
    RowPointersU8 job = rows;
    job.images = images;
    job.first = part.begin;
    job.count = part.end - part.begin;
    job.pointers = pointers;
    table.row_pointers_u8(job);
    if (has_patches()) patch_runs(geometry, job, patches);
    RequantizeU8 to = output;
    std::int64_t shifted = 0;  // the group that the pointers stand at
    for (std::int64_t s = slices.begin; s < slices.end;) {
      const std::int64_t group = outputs.group_of(s);
      const std::int64_t shift = (group - shifted) * group_inputs;
      if (shift != 0) {
        for (std::int64_t p = 0; p < geometry.taps() * job.count; ++p) pointers[p] += shift;
      }
      shifted = group;
      const std::int64_t end = std::min(slices.end, (group + 1) * outputs.slices_per_group());
      const std::int64_t column = outputs.first_output(s);
      to.scale = output.scale + s * kLanes;
      to.bias = output.bias + s * kLanes;
      to.columns = outputs.first_output(end - 1) + outputs.lanes(end - 1) - column;
      const std::int64_t first = part.begin * output.y_stride + column;
      to.y = output.y + first;
      if (output.residual != nullptr) to.residual = output.residual + first;
      kernel(TileS8{pointers, static_cast<int>(job.count), geometry.taps(), group_inputs, s,
                    end - s, zero_point, nullptr, 0, nullptr, &to});
      s = end;
    }
  }
};

}  // namespace skd
