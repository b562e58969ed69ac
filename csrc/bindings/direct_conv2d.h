// Direct calls of convolutions: fp32 images in either memory format, output in the same.
#pragma once

#include <memory>
#include <utility>

#include "bindings/direct.h"
#include "ops/conv2d.h"

namespace skd {

// Sizes and strides of images by axis (batch, channels, height, width); a 3-d tensor [batch,
// channels, length] has height 1.
struct ImageAxes {
  std::int64_t n, c, h, w;
};

inline ImageAxes axes_of(const std::int64_t* values, int dims, std::int64_t height) {
  return dims == 4 ? ImageAxes{values[0], values[1], values[2], values[3]}
                   : ImageAxes{values[0], values[1], height, values[2]};
}

inline ImageAxes strides_for(const ImageAxes& size, Layout layout) {
  if (layout == Layout::nhwc) {
    return {size.h * size.w * size.c, 1, size.w * size.c, size.c};
  }
  return {size.c * size.h * size.w, size.h * size.w, size.w, 1};
}

// What sparsekd.ops.is_channels_last says: torch's rule, by the strides alone.
inline bool is_channels_last(const ImageAxes& size, const ImageAxes& by) {
  return by.c == 1 && by.w >= size.c && by.h >= by.w * size.w &&
         (size.n <= 1 || by.n >= by.h * size.h) &&
         !(size.w == 1 && size.h == 1 && by.w < (size.c > 2 ? size.c : 2));
}

inline bool has_strides(const ImageAxes& size, const ImageAxes& by, const ImageAxes& wanted) {
  return (size.n == 1 || by.n == wanted.n) && (size.c == 1 || by.c == wanted.c) &&
         (size.h == 1 || by.h == wanted.h) && (size.w == 1 || by.w == wanted.w);
}

// Whether the bytes of fp32 images of these sizes fit a signed index.
inline bool fits(const ImageAxes& size) {
  std::int64_t bytes = 4;
  for (const std::int64_t side : {size.n, size.c, size.h, size.w}) {
    if (__builtin_mul_overflow(bytes, side, &bytes)) return false;
  }
  return true;
}

template <class Conv>
class DirectConv2d final : public DirectLayer {
 public:
  // dims: 4 for images, 3 for rows of samples.
  DirectConv2d(py::object conv, py::object torch, const py::tuple& tensors, int dims)
      : DirectLayer(std::move(torch), tensors),
        owner_(std::move(conv)),
        conv_(py::cast<const Conv*>(owner_)),
        dims_(dims) {
    require(dims == 3 || dims == 4, "direct call: ", dims, " dimensions, expected 3 or 4");
  }

 private:
  py::object run(PyObject* x, const dlpack::Tensor& input) const override {
    const ConvGeometry& g = conv_->geometry();
    if (input.dims != dims_ || input.shape[1] != g.in_channels) return {};
    const ImageAxes size = axes_of(input.shape, dims_, 1);
    // The stride of a height of 1 is that of torch's x[:, :, None].
    const ImageAxes by = axes_of(input.strides, dims_, input.shape[2] * input.strides[2]);
    const Layout layout = is_channels_last(size, by) ? Layout::nhwc : Layout::nchw;
    if (!has_strides(size, by, strides_for(size, layout))) return {};

    const ImageAxes out{size.n, g.out_channels, g.out_height(size.h), g.out_width(size.w)};
    if (out.c < 1 || out.h < 1 || out.w < 1 || !fits(out)) return {};
    const ImageAxes step = strides_for(out, layout);
    const std::int64_t shape[] = {out.n, out.c, dims_ == 4 ? out.h : out.w, out.w};
    const std::int64_t strides[] = {step.n, step.c, dims_ == 4 ? step.h : step.w, step.w};
    py::object y = torch().empty(x, shape, strides, dims_);
    dlpack::Tensor output;
    if (!torch().read(y.ptr(), &output) || !is_fp32(output)) return {};
    const int threads = torch().num_threads();
    const WithoutGil released(out.n * out.c * out.h * out.w * g.tap_inputs() * g.taps());
    conv_->forward({data_of(input), nullptr, layout, size.n, size.h, size.w},
                   {data_of(output), nullptr, layout, 1.0f, 0}, threads);
    return y;
  }

  py::object owner_;
  const Conv* conv_;
  int dims_;
};

template <class Conv>
py::object direct_conv2d(py::object conv, py::object torch, const py::tuple& tensors, int dims) {
  return as_callable(
      std::make_unique<DirectConv2d<Conv>>(std::move(conv), std::move(torch), tensors, dims),
      tensors);
}

}  // namespace skd
