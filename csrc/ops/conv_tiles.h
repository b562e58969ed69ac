// The loop over output pixels that every convolution shares. A caller brings rows (NHWC elements of
// type Input), a function that accumulates a tile of sums and one that finishes it into fp32; this
// header finds the row pointers, walks slices and pixels and stores in the asked layout.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/threads.h"
#include "formats/sliced_outputs.h"
#include "ops/conv_runs.h"
#include "ops/conv_weight.h"
#include "ops/split.h"

namespace skd {

template <class Input>
struct ConvRows {
  const Input* nhwc;      // [batch][height][width][in_channels]
  const Input* zero_row;  // stands for padding
  Input* patches;         // [patch_size()] of the calling thread
};

// fp32 rows of a tile, or null.
struct TileRows {
  const float* data;
  std::int64_t stride;
};

// The walk over one call. `Math` has
//   using Input, Sum;
//   void accumulate(const Input* const* rows, int count, Range slices, Sum* acc, int64 stride)
//   void finish(const Sum* acc, int64 stride, int64 sample, int count, int64 column, int64 columns,
//               TileRows residual, float* y, int64 y_stride)
//   const KernelTable& table() const
//   void quantize(const float* y, int64 count, uint8_t* u)   the output's own quantization
template <class Math>
class ConvWalk {
 public:
  using Input = typename Math::Input;
  using Sum = typename Math::Sum;

  ConvWalk(const Math& math, const ConvGeometry& geometry, const ConvWeight& weight, int tile_rows,
           const ConvInput& x, const ConvOutput& y)
      : math_(math),
        g_(geometry),
        outputs_(weight.outputs),
        group_channels_(weight.inputs),
        tile_rows_(tile_rows),
        x_(x),
        y_(y),
        width_(geometry.out_width(x.width)),
        pixels_(geometry.out_height(x.height) * width_) {
    const std::int64_t fit = kBlockBytes / std::max<std::int64_t>(1, weight.slice_bytes);
    block_ = std::max(kBlockSlices, fit / kBlockSlices * kBlockSlices);
  }

  // Row pointers that one thread needs.
  std::int64_t pointer_count() const { return g_.taps() * kMaxTileRows; }

  // Inputs in patches that one thread needs.
  std::int64_t patch_size() const {
    return g_.rows ? kMaxTileRows * g_.taps() * g_.tap_inputs() : 0;
  }

  // This thread's part: of the pixel tiles when there are plenty, else of the slices.
  void run(const ConvRows<Input>& rows, const Input** pointers, int thread, int threads) const {
    const std::int64_t per_sample = ceil_div(pixels_, tile_rows_), tiles = per_sample * x_.batch;
    const bool by_tiles = tiles >= 8 * threads || outputs_.blocks() < threads;
    const Range mine = by_tiles ? part_of(tiles, thread, threads) : Range{0, tiles};
    const Range blocks =
        by_tiles ? Range{0, outputs_.blocks()} : part_of(outputs_.blocks(), thread, threads);
    const Range slices{outputs_.first_slice(blocks.begin), outputs_.first_slice(blocks.end)};
    for (std::int64_t s = slices.begin, end; s < slices.end; s = end) {
      end = std::min(s + block_, slices.end);
      if (end < slices.end) end = outputs_.block_start(end);
      const Range block{s, end};
      for (std::int64_t tile = mine.begin; tile < mine.end; ++tile) {
        const Range pixels = part_of(pixels_, tile % per_sample, per_sample);
        compute(rows, pointers, tile / per_sample, pixels, block);
      }
    }
  }

 private:
  static constexpr std::int64_t kColumns = kBlockSlices * kLanes;

  // pointers[row of the kernel][pixel] for its runs.
  void find_runs(const ConvRows<Input>& rows, std::int64_t sample, Range pixels,
                 const Input** pointers) const {
    const std::int64_t line = x_.width * g_.in_channels;
    const Input* image = rows.nhwc + sample * x_.height * line;
    const std::int64_t count = pixels.end - pixels.begin;
    for (std::int64_t r = 0; r < count; ++r) {
      const std::int64_t oy = (pixels.begin + r) / width_, ox = (pixels.begin + r) % width_;
      const std::int64_t first = ox * g_.stride_w - g_.pad_left;
      const bool whole = run_is_inside(g_, x_.width, first);
      for (std::int64_t ky = 0; ky < g_.kernel_h; ++ky) {
        const std::int64_t iy = oy * g_.stride_h - g_.pad_top + ky * g_.dilation_h;
        const Input*& pointer = pointers[ky * count + r];
        pointer = rows.zero_row;
        if (iy < 0 || iy >= x_.height) continue;
        pointer = image + iy * line + first * g_.in_channels;
        if (whole) continue;
        Input* patch = rows.patches + (r * g_.kernel_h + ky) * g_.tap_inputs();
        copy_run(g_, image + iy * line, x_.width, first, rows.zero_row, patch);
        pointer = patch;
      }
    }
  }

  // pointers[tap][pixel] for the channels of group 0.
  void find_rows(const ConvRows<Input>& rows, std::int64_t sample, Range pixels,
                 const Input** pointers) const {
    if (g_.rows) return find_runs(rows, sample, pixels, pointers);
    const Input* image = rows.nhwc + sample * x_.height * x_.width * g_.in_channels;
    const std::int64_t count = pixels.end - pixels.begin;
    std::int64_t oy = pixels.begin / width_, ox = pixels.begin % width_;
    for (std::int64_t r = 0; r < count; ++r) {
      const Input** to = pointers + r;
      for (std::int64_t ky = 0; ky < g_.kernel_h; ++ky) {
        const std::int64_t iy = oy * g_.stride_h - g_.pad_top + ky * g_.dilation_h;
        for (std::int64_t kx = 0; kx < g_.kernel_w; ++kx, to += count) {
          const std::int64_t ix = ox * g_.stride_w - g_.pad_left + kx * g_.dilation_w;
          const bool inside = iy >= 0 && iy < x_.height && ix >= 0 && ix < x_.width;
          *to = inside ? image + (iy * x_.width + ix) * g_.in_channels : rows.zero_row;
        }
      }
      if (++ox == width_) {
        ox = 0;
        ++oy;
      }
    }
  }

  void compute(const ConvRows<Input>& rows, const Input** pointers, std::int64_t sample,
               Range pixels, Range block) const {
    alignas(64) Sum acc[kMaxTileRows * kColumns];
    const int count = static_cast<int>(pixels.end - pixels.begin);
    find_rows(rows, sample, pixels, pointers);
    std::int64_t shifted = 0;  // the group that the pointers stand at
    for (std::int64_t s = block.begin; s < block.end;) {
      const std::int64_t group = outputs_.group_of(s);
      const std::int64_t shift = (group - shifted) * group_channels_;
      if (shift != 0) {
        for (std::int64_t i = 0; i < g_.taps() * count; ++i) pointers[i] += shift;
      }
      shifted = group;
      const std::int64_t end =
          std::min({block.end, (group + 1) * outputs_.slices_per_group(), s + kBlockSlices});
      math_.accumulate(pointers, count, {s, end}, acc, kColumns);
      const std::int64_t column = outputs_.first_output(s);
      store(acc, sample, pixels, column,
            outputs_.first_output(end - 1) + outputs_.lanes(end - 1) - column);
      s = end;
    }
  }

  void store(const Sum* acc, std::int64_t sample, Range pixels, std::int64_t column,
             std::int64_t columns) const {
    const int count = static_cast<int>(pixels.end - pixels.begin);
    const std::int64_t row = sample * pixels_ + pixels.begin;
    alignas(64) float loaded[kMaxTileRows * kColumns];
    const TileRows residual = residual_tile(sample, pixels, column, columns, loaded);
    if (y_.f32 != nullptr && y_.layout == Layout::nhwc) {
      return math_.finish(acc, kColumns, sample, count, column, columns, residual,
                          y_.f32 + row * g_.out_channels + column, g_.out_channels);
    }
    alignas(64) float tile[kMaxTileRows * kColumns];
    math_.finish(acc, kColumns, sample, count, column, columns, residual, tile, kColumns);
    if (y_.u8 == nullptr) {
      float* plane = y_.f32 + (sample * g_.out_channels + column) * pixels_ + pixels.begin;
      return store_planes(tile, kColumns, count, columns, plane, pixels_);
    }
    for (int r = 0; r < count; ++r) {
      math_.quantize(tile + r * kColumns, columns, y_.u8 + (row + r) * g_.out_channels + column);
    }
  }

  // The residual of a tile in place, or in `loaded` where it is u8 or NCHW.
  TileRows residual_tile(std::int64_t sample, Range pixels, std::int64_t column,
                         std::int64_t columns, float* loaded) const {
    const ConvResidual& r = y_.residual;
    if (r.f32 == nullptr && r.u8 == nullptr) return {nullptr, 0};
    const int count = static_cast<int>(pixels.end - pixels.begin);
    const std::int64_t first = (sample * pixels_ + pixels.begin) * g_.out_channels + column;
    if (r.f32 != nullptr && r.layout == Layout::nhwc) return {r.f32 + first, g_.out_channels};
    if (r.f32 != nullptr) {
      const float* plane = r.f32 + (sample * g_.out_channels + column) * pixels_ + pixels.begin;
      load_planes(plane, pixels_, count, columns, loaded, kColumns);
    } else {
      for (int i = 0; i < count; ++i) {
        math_.table().dequantize_u8(r.u8 + first + i * g_.out_channels, columns, r.scale,
                                    r.zero_point, loaded + i * kColumns);
      }
    }
    return {loaded, kColumns};
  }

  const Math& math_;
  const ConvGeometry& g_;
  const SlicedOutputs outputs_;
  std::int64_t group_channels_;
  int tile_rows_;
  const ConvInput& x_;
  const ConvOutput& y_;
  std::int64_t width_, pixels_, block_;
};

}  // namespace skd
