// Where the elements of images and convolution weights lie. The checks keep images in the order
// [sample][pixel][channel] and turn them into the layout that a layer is asked for.
#pragma once

#include <cstdint>
#include <ostream>
#include <vector>

#include "check/problem.h"
#include "kernels/reference.h"

namespace skd::check {

inline std::size_t size(std::int64_t count) { return static_cast<std::size_t>(count); }

inline reference::Conv conv_of(const Images& i) {
  const ConvGeometry& g = i.geometry;
  return {i.height,       i.width,      g.in_channels, i.out_height, i.out_width,
          g.out_channels, g.groups,     g.kernel_h,    g.kernel_w,   g.stride_h,
          g.stride_w,     g.dilation_h, g.dilation_w,  g.pad_top,    g.pad_left};
}
// Elements of one sample.
inline std::int64_t input_size(const Images& i) {
  return i.height * i.width * i.geometry.in_channels;
}
inline std::int64_t output_size(const Images& i) {
  return i.out_height * i.out_width * i.geometry.out_channels;
}

// The input as the layer gets it.
inline std::vector<float> in_layout(const Problem& p, const std::vector<float>& x) {
  if (p.images.in == Layout::nhwc) return x;
  const std::int64_t channels = p.images.geometry.in_channels,
                     pixels = p.images.height * p.images.width;
  std::vector<float> planes(x.size());
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(x.size()); ++i) {
    const std::int64_t sample = i / (pixels * channels), pixel = i / channels % pixels;
    planes[size((sample * channels + i % channels) * pixels + pixel)] = x[size(i)];
  }
  return planes;
}

// Depthwise weights [channels][taps] as the format wants them, [taps][channels].
template <class T>
std::vector<T> taps_first(const Problem& p, const std::vector<T>& dense) {
  std::vector<T> turned;
  for (int tap = 0; tap < p.taps; ++tap) {
    for (std::int64_t c = 0; c < p.outputs; ++c) turned.push_back(dense[size(c * p.taps + tap)]);
  }
  return turned;
}

// One output element.
struct Where {
  std::int64_t sample, pixel, output, row, column;
};
inline Where where_of(const Problem& p, std::int64_t i) {
  const std::int64_t pixels = p.images.out_height * p.images.out_width;
  const std::int64_t pixel = i / p.outputs % pixels;
  return {i / p.outputs / pixels, pixel, i % p.outputs, pixel / p.images.out_width,
          pixel % p.images.out_width};
}
inline std::ostream& operator<<(std::ostream& text, const Where& where) {
  return text << "sample " << where.sample << ", pixel " << where.row << ',' << where.column
              << ", output " << where.output << ": ";
}
inline std::int64_t output_at(const Problem& p, const Where& where, Layout layout) {
  const std::int64_t pixels = p.images.out_height * p.images.out_width;
  return layout == Layout::nhwc ? (where.sample * pixels + where.pixel) * p.outputs + where.output
                                : (where.sample * p.outputs + where.output) * pixels + where.pixel;
}
inline std::int64_t output_at(const Problem& p, const Where& where) {
  return output_at(p, where, p.images.out);
}

}  // namespace skd::check
