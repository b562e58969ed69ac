// Python's view of pooling and adding: contiguous tensors by their addresses.
#include <pybind11/stl.h>

#include <tuple>

#include "bindings/arrays.h"
#include "core/sizes.h"
#include "ops/add.h"
#include "ops/pool2d.h"

namespace skd {
namespace {

using namespace pybind11::literals;
using Pair = std::tuple<std::int64_t, std::int64_t>;
using Four = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t>;
// A tensor: its address, whether it is u8 (else fp32), scale and zero point of u8.
using Data = std::tuple<std::uintptr_t, bool, float, std::int32_t>;

PoolGeometry pool_of(Pair kernel, Pair stride, Pair padding, Pair dilation, bool ceil_mode) {
  PoolGeometry g{std::get<0>(kernel),  std::get<1>(kernel),   std::get<0>(stride),
                 std::get<1>(stride),  std::get<0>(dilation), std::get<1>(dilation),
                 std::get<0>(padding), std::get<1>(padding),  ceil_mode};
  g.check();
  return g;
}

template <class Images>
Images images_at(const Data& data, bool nhwc, std::int64_t elements, const char* name) {
  const auto [address, u8, scale, zero_point] = data;
  using Float = std::remove_pointer_t<decltype(Images::f32)>;
  using Byte = std::remove_pointer_t<decltype(Images::u8)>;
  return {u8 ? nullptr : data_at<Float>(address, elements, name),
          u8 ? data_at<Byte>(address, elements, name) : nullptr,
          nhwc ? Layout::nhwc : Layout::nchw,
          {scale, zero_point}};
}

template <class Sides>
Sides elements_at(const Data& data, std::int64_t elements, const char* name) {
  const auto [address, u8, scale, zero_point] = data;
  using Float = std::remove_pointer_t<decltype(Sides::f32)>;
  using Byte = std::remove_pointer_t<decltype(Sides::u8)>;
  return {u8 ? nullptr : data_at<Float>(address, elements, name),
          u8 ? data_at<Byte>(address, elements, name) : nullptr,
          {scale, zero_point}};
}

struct PoolCall {
  PoolShape shape;
  PoolInput x;
  PoolOutput y;

  PoolCall(const Data& from, const Data& to, bool nhwc, Four sizes)
      : shape{std::get<0>(sizes), std::get<1>(sizes), std::get<2>(sizes), std::get<3>(sizes)} {
    const std::int64_t count = checked_mul(checked_mul(shape.batch, shape.channels),
                                           checked_mul(shape.height, shape.width));
    x = images_at<PoolInput>(from, nhwc, count, "input");
    y = images_at<PoolOutput>(to, nhwc, count, "output");
  }
};

}  // namespace

void bind_images(py::module_& m) {
  py::class_<PoolGeometry>(m, "PoolGeometry")
      .def(py::init(&pool_of), "kernel"_a, "stride"_a, "padding"_a, "dilation"_a, "ceil_mode"_a)
      .def("out_size", [](const PoolGeometry& g, std::int64_t height, std::int64_t width) {
        return std::make_tuple(g.out_height(height), g.out_width(width));
      });
  m.def(
      "max_pool2d",
      [](const PoolGeometry& g, const Data& x, const Data& y, bool nhwc, Four shape, int threads) {
        const PoolCall call(x, y, nhwc, shape);
        const py::gil_scoped_release release;
        max_pool2d(g, call.shape, call.x, call.y, threads);
      },
      "geometry"_a, "x"_a, "y"_a, "nhwc"_a, "shape"_a, "threads"_a);
  m.def(
      "avg_pool2d",
      [](const PoolGeometry& g, const Data& x, const Data& y, bool nhwc, Four shape,
         bool include_pad, std::int64_t divisor, int threads) {
        const PoolCall call(x, y, nhwc, shape);
        const py::gil_scoped_release release;
        avg_pool2d(g, call.shape, call.x, call.y, {include_pad, divisor}, threads);
      },
      "geometry"_a, "x"_a, "y"_a, "nhwc"_a, "shape"_a, "include_pad"_a, "divisor"_a, "threads"_a);
  m.def(
      "add",
      [](const Data& a, const Data& b, const Data& y, std::int64_t count,
         const std::string& activation, int threads) {
        const auto first = elements_at<AddInput>(a, count, "first");
        const auto second = elements_at<AddInput>(b, count, "second");
        const auto to = elements_at<AddOutput>(y, count, "output");
        const Activation act = activation_from(activation);
        const py::gil_scoped_release release;
        add(first, second, to, count, act, threads);
      },
      "a"_a, "b"_a, "y"_a, "count"_a, "activation"_a, "threads"_a);
}

}  // namespace skd
