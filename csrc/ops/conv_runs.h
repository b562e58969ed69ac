// Convolutions of few channels, whose weight is cut along rows: under a row of the kernel an output
// reads a run of kernel_w pixels, all of whose channels lie side by side in an NHWC image. A run
// inside the image is read in place. One that crosses the left or right edge is put together in a
// patch, so that no image is copied for its padding; rows above and below are runs of padding.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/sizes.h"
#include "core/threads.h"
#include "ops/conv_call.h"

namespace skd {

inline constexpr std::int64_t kRowChannels = 64;    // from here on a pixel fills windows of its own
inline constexpr std::int64_t kPatchInputs = 1024;  // of the runs of an output pixel

// Whether the run from column `first` of a row of `width` pixels lies inside.
inline bool run_is_inside(const ConvGeometry& g, std::int64_t width, std::int64_t first) {
  return first >= 0 && first + g.kernel_w <= width;
}

// Puts a run together: from the pixels of a row where there are any, else from `padding`.
template <class Input>
void copy_run(const ConvGeometry& g, const Input* row, std::int64_t width, std::int64_t first,
              const Input* padding, Input* to) {
  const std::int64_t begin = std::clamp<std::int64_t>(-first, 0, g.kernel_w);
  const std::int64_t end = std::clamp<std::int64_t>(width - first, begin, g.kernel_w);
  const std::int64_t channels = g.in_channels;
  to = std::copy_n(padding, begin * channels, to);
  if (begin < end) to = std::copy_n(row + (first + begin) * channels, (end - begin) * channels, to);
  std::copy_n(padding, (g.kernel_w - end) * channels, to);
}

// The output columns whose runs lie inside.
inline Range columns_inside(const ConvGeometry& g, std::int64_t width) {
  const std::int64_t begin = ceil_div(g.pad_left, g.stride_w);
  const std::int64_t last = width + g.pad_left - g.kernel_w;
  return {begin, std::max(begin, last < 0 ? 0 : last / g.stride_w + 1)};
}

// Points the row pointers of a job at patches [count][kernel_h][run] where runs cross an edge.
void patch_runs(const ConvGeometry& g, const RowPointersU8& job, std::uint8_t* patches);

}  // namespace skd
