#include "ops/conv_runs.h"

namespace skd {
namespace {

// The pixels of output row `row`, counted over all images, in columns `columns`.
void patch_columns(const ConvGeometry& g, const RowPointersU8& job, std::int64_t row, Range columns,
                   std::uint8_t* patches) {
  const std::int64_t sample = row / job.out_height, oy = row % job.out_height;
  const std::uint8_t* image = job.images + sample * job.height * job.width * job.channels;
  for (std::int64_t ox = columns.begin; ox < columns.end; ++ox) {
    const std::int64_t at = row * job.out_width + ox - job.first;  // in the job
    for (std::int64_t ky = 0; ky < g.kernel_h; ++ky) {
      const std::int64_t iy = oy * g.stride_h - g.pad_top + ky * g.dilation_h;
      if (iy < 0 || iy >= job.height) continue;
      std::uint8_t* patch = patches + (at * g.kernel_h + ky) * g.tap_inputs();
      copy_run(g, image + iy * job.width * job.channels, job.width, ox * g.stride_w - g.pad_left,
               job.outside, patch);
      job.pointers[ky * job.count + at] = patch;
    }
  }
}

}  // namespace

void patch_runs(const ConvGeometry& g, const RowPointersU8& job, std::uint8_t* patches) {
  const Range inside = columns_inside(g, job.width);
  const std::int64_t end = job.first + job.count;
  for (std::int64_t row = job.first / job.out_width; row * job.out_width < end; ++row) {
    const std::int64_t start = row * job.out_width;
    const Range some{std::max(job.first - start, std::int64_t{0}),
                     std::min(end - start, job.out_width)};
    patch_columns(g, job, row, {some.begin, std::min(some.end, inside.begin)}, patches);
    patch_columns(g, job, row, {std::max(some.begin, inside.end), some.end}, patches);
  }
}

}  // namespace skd
