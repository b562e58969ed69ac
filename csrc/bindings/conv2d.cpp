// Python's view of the convolutions: pack and unpack with taps and groups, and handles that run.
#include <pybind11/stl.h>

#include <chrono>
#include <optional>
#include <tuple>
#include <utility>

#include "bindings/direct_conv2d.h"
#include "bindings/windowed.h"
#include "core/sizes.h"
#include "ops/conv2d.h"

namespace skd {
namespace {

using namespace pybind11::literals;
using Pair = std::tuple<std::int64_t, std::int64_t>;
using Four = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t>;

ConvGeometry geometry_of(Pair channels, Pair kernel, Pair stride, Pair dilation, Four padding,
                         std::int64_t groups, bool rows) {
  ConvGeometry g{std::get<0>(channels),
                 std::get<1>(channels),
                 groups,
                 std::get<0>(kernel),
                 std::get<1>(kernel),
                 std::get<0>(stride),
                 std::get<1>(stride),
                 std::get<0>(dilation),
                 std::get<1>(dilation),
                 std::get<0>(padding),
                 std::get<1>(padding),
                 std::get<2>(padding),
                 std::get<3>(padding),
                 rows};
  g.check();
  return g;
}

struct DenseMatrix {
  const std::int8_t* data;
  std::int64_t outputs, inputs;
};

// weight [outputs][taps][channels of a group]
DenseMatrix taps_matrix(const py::array& weight) {
  const std::int8_t* data = data_of<std::int8_t>(weight, "weight", {-1, -1, -1});
  require(weight.shape(1) >= 1 && weight.shape(1) <= (1 << 20), "weight: ", weight.shape(1),
          " taps, expected at least 1");
  return {data, weight.shape(0), weight.shape(2)};
}

py::array_t<std::int8_t> pack_dense(const py::array& weight, std::int64_t groups) {
  const DenseMatrix dense = taps_matrix(weight);
  const auto packed = DenseS8Weight::pack(dense.data, dense.outputs, dense.inputs,
                                          static_cast<int>(weight.shape(1)), groups);
  const py::ssize_t lanes = kLanes, dot = kDot;
  return py::array_t<std::int8_t>({packed.slices(), packed.quads(), lanes, dot}, packed.panels());
}

DenseS8Weight dense_from(const py::array& panels, std::int64_t outputs, std::int64_t inputs,
                         std::int64_t taps, std::int64_t groups) {
  const SlicedOutputs layout = SlicedOutputs::of(outputs, groups);
  const std::int8_t* data = data_of<std::int8_t>(
      panels, "panels", {layout.slices(), checked_mul(ceil_div(inputs, kDot), taps), kLanes, kDot});
  return DenseS8Weight::from_parts(data, panels.size(), outputs, inputs, static_cast<int>(taps),
                                   groups);
}

py::array_t<std::int8_t> unpack_dense(const py::array& panels, std::int64_t outputs,
                                      std::int64_t inputs, std::int64_t taps, std::int64_t groups) {
  const auto weight = dense_from(panels, outputs, inputs, taps, groups);
  py::array_t<std::int8_t> dense({outputs, taps, inputs});
  weight.unpack(dense.mutable_data());
  return dense;
}

Conv2dS8 conv_s8(Conv2dS8::Weight weight, const ConvGeometry& g, const py::array& scale,
                 const std::optional<py::array>& bias, std::optional<float> input_scale,
                 std::int32_t input_zero_point, const std::string& activation) {
  const float* scales = data_of<float>(scale, "scale", {g.out_channels});
  const float* biases = bias ? data_of<float>(*bias, "bias", {g.out_channels}) : nullptr;
  return Conv2dS8(std::move(weight), g, scales, biases,
                  {!input_scale, input_scale.value_or(1.0f), input_zero_point},
                  activation_from(activation));
}

Conv2dFloat conv_float(Conv2dFloat::Weight weight, const ConvGeometry& g,
                       const std::optional<py::array>& bias, const std::string& activation) {
  const float* biases = bias ? data_of<float>(*bias, "bias", {g.out_channels}) : nullptr;
  return Conv2dFloat(std::move(weight), g, biases, activation_from(activation));
}

WindowedShape shape_of(const ConvGeometry& g, int window) {
  return {g.out_channels, g.tap_inputs(), window, g.taps(), g.groups};
}

// Address of the residual (0: none), whether it is u8 and NHWC, its scale and zero point.
using Residual = std::tuple<std::uintptr_t, bool, bool, float, std::int32_t>;
constexpr Residual kNoResidual{0, false, true, 1.0f, 0};

ConvResidual residual_at(const Residual& residual) {
  const auto [address, u8, nhwc, scale, zero_point] = residual;
  const auto* data = reinterpret_cast<const void*>(address);
  return {u8 ? nullptr : static_cast<const float*>(data),
          u8 ? static_cast<const std::uint8_t*>(data) : nullptr, nhwc ? Layout::nhwc : Layout::nchw,
          scale, zero_point};
}

// Calls run(input, output) on contiguous tensors given by address; a dtype is u8 where its flag
// says so, else fp32.
template <class Conv, class Run>
auto on_tensors(const Conv& conv, std::uintptr_t x, bool x_u8, bool x_nhwc, Four shape,
                std::uintptr_t y, bool y_u8, bool y_nhwc, float y_scale, std::int32_t y_zero_point,
                const Residual& residual, const Run& run) {
  const auto [batch, channels, height, width] = shape;
  require(channels == conv.geometry().in_channels, "input of ", channels, " channels, expected ",
          conv.geometry().in_channels);
  // Null only where nothing is read.
  const std::int64_t size = checked_mul(checked_mul(batch, height), width);
  const auto* from = data_at<const void>(x, size, "input");
  auto* to = data_at<void>(y, size, "output");
  const py::gil_scoped_release release;
  const ConvInput input{x_u8 ? nullptr : static_cast<const float*>(from),
                        x_u8 ? static_cast<const std::uint8_t*>(from) : nullptr,
                        x_nhwc ? Layout::nhwc : Layout::nchw,
                        batch,
                        height,
                        width};
  const ConvOutput output{y_u8 ? nullptr : static_cast<float*>(to),
                          y_u8 ? static_cast<std::uint8_t*>(to) : nullptr,
                          y_nhwc ? Layout::nhwc : Layout::nchw,
                          y_scale,
                          y_zero_point,
                          residual_at(residual)};
  return run(input, output);
}

template <class Conv>
void forward(const Conv& conv, std::uintptr_t x, bool x_u8, bool x_nhwc, Four shape,
             std::uintptr_t y, bool y_u8, bool y_nhwc, float y_scale, std::int32_t y_zero_point,
             int threads, const Residual& residual) {
  on_tensors(conv, x, x_u8, x_nhwc, shape, y, y_u8, y_nhwc, y_scale, y_zero_point, residual,
             [&](const ConvInput& from, const ConvOutput& to) { conv.forward(from, to, threads); });
}

// The same from u8 NHWC to u8 NHWC; returns the seconds that the layer itself took, without the
// microsecond of the way here from Python.
double seconds_u8(const Conv2dS8& conv, std::uintptr_t x, Four shape, std::uintptr_t y,
                  float y_scale, std::int32_t y_zero_point, int threads) {
  using Clock = std::chrono::steady_clock;
  return on_tensors(conv, x, true, true, shape, y, true, true, y_scale, y_zero_point, kNoResidual,
                    [&](const ConvInput& from, const ConvOutput& to) {
                      const Clock::time_point start = Clock::now();
                      conv.forward(from, to, threads);
                      return std::chrono::duration<double>(Clock::now() - start).count();
                    });
}

}  // namespace

void bind_conv2d(py::module_& m) {
  m.def("pack_conv_dense_s8", &pack_dense, "weight"_a, "groups"_a);
  m.def("unpack_conv_dense_s8", &unpack_dense, "panels"_a, "outputs"_a, "inputs"_a, "taps"_a,
        "groups"_a);

  py::class_<ConvGeometry>(m, "ConvGeometry")
      .def(py::init(&geometry_of), "channels"_a, "kernel"_a, "stride"_a, "dilation"_a, "padding"_a,
           "groups"_a, "rows"_a = false)
      .def("can_have_rows", &ConvGeometry::can_have_rows)
      .def("out_size", [](const ConvGeometry& g, std::int64_t height, std::int64_t width) {
        return std::make_tuple(g.out_height(height), g.out_width(width));
      });

  py::class_<Conv2dS8>(m, "Conv2dS8")
      .def_static(
          "windowed",
          [](const py::array& values, const py::array& positions, const py::array& steps,
             const py::array& step_ptr, const std::optional<py::array>& order,
             const ConvGeometry& g, const py::array& scale, const std::optional<py::array>& bias,
             std::optional<float> input_scale, std::int32_t input_zero_point,
             const std::string& activation) {
            return conv_s8(windowed_from<S8Format>(values, positions, steps, step_ptr, order,
                                                   shape_of(g, kWindow)),
                           g, scale, bias, input_scale, input_zero_point, activation);
          },
          "values"_a, "positions"_a, "steps"_a, "step_ptr"_a, "order"_a, "geometry"_a, "scale"_a,
          "bias"_a, "input_scale"_a, "input_zero_point"_a, "activation"_a)
      .def_static(
          "dense",
          [](const py::array& panels, const ConvGeometry& g, const py::array& scale,
             const std::optional<py::array>& bias, std::optional<float> input_scale,
             std::int32_t input_zero_point, const std::string& activation) {
            return conv_s8(dense_from(panels, g.out_channels, g.tap_inputs(), g.taps(), g.groups),
                           g, scale, bias, input_scale, input_zero_point, activation);
          },
          "panels"_a, "geometry"_a, "scale"_a, "bias"_a, "input_scale"_a, "input_zero_point"_a,
          "activation"_a)
      .def_static(
          "depthwise",
          [](const py::array& values, const ConvGeometry& g, const py::array& scale,
             const std::optional<py::array>& bias, std::optional<float> input_scale,
             std::int32_t input_zero_point, const std::string& activation) {
            const std::int8_t* data =
                data_of<std::int8_t>(values, "values", {g.taps(), g.in_channels});
            return conv_s8(DepthwiseS8Weight(data, g.in_channels, g.taps()), g, scale, bias,
                           input_scale, input_zero_point, activation);
          },
          "values"_a, "geometry"_a, "scale"_a, "bias"_a, "input_scale"_a, "input_zero_point"_a,
          "activation"_a)
      .def("forward", &forward<Conv2dS8>, "x"_a, "x_u8"_a, "x_nhwc"_a, "shape"_a, "y"_a, "y_u8"_a,
           "y_nhwc"_a, "y_scale"_a, "y_zero_point"_a, "threads"_a, "residual"_a = kNoResidual)
      .def("seconds_u8", &seconds_u8, "x"_a, "shape"_a, "y"_a, "y_scale"_a, "y_zero_point"_a,
           "threads"_a)
      .def("direct", &direct_conv2d<Conv2dS8>, "torch"_a, "tensors"_a, "dims"_a);

  py::class_<Conv2dFloat>(m, "Conv2dFloat")
      .def_static(
          "windowed_f32",
          [](const py::array& values, const py::array& positions, const py::array& steps,
             const py::array& step_ptr, const std::optional<py::array>& order, int window,
             const ConvGeometry& g, const std::optional<py::array>& bias,
             const std::string& activation) {
            return conv_float(windowed_from<F32Format>(values, positions, steps, step_ptr, order,
                                                       shape_of(g, window)),
                              g, bias, activation);
          },
          "values"_a, "positions"_a, "steps"_a, "step_ptr"_a, "order"_a, "window"_a, "geometry"_a,
          "bias"_a, "activation"_a)
      .def_static(
          "windowed_bf16",
          [](const py::array& values, const py::array& positions, const py::array& steps,
             const py::array& step_ptr, const std::optional<py::array>& order,
             const ConvGeometry& g, const std::optional<py::array>& bias,
             const std::string& activation) {
            return conv_float(windowed_from<Bf16Format>(values, positions, steps, step_ptr, order,
                                                        shape_of(g, kBf16Window32.window)),
                              g, bias, activation);
          },
          "values"_a, "positions"_a, "steps"_a, "step_ptr"_a, "order"_a, "geometry"_a, "bias"_a,
          "activation"_a)
      .def_static(
          "depthwise",
          [](const py::array& values, const ConvGeometry& g, const std::optional<py::array>& bias,
             const std::string& activation) {
            const float* data = data_of<float>(values, "values", {g.taps(), g.in_channels});
            return conv_float(DepthwiseF32Weight(data, g.in_channels, g.taps()), g, bias,
                              activation);
          },
          "values"_a, "geometry"_a, "bias"_a, "activation"_a)
      .def("forward", &forward<Conv2dFloat>, "x"_a, "x_u8"_a, "x_nhwc"_a, "shape"_a, "y"_a,
           "y_u8"_a, "y_nhwc"_a, "y_scale"_a, "y_zero_point"_a, "threads"_a,
           "residual"_a = kNoResidual)
      .def("direct", &direct_conv2d<Conv2dFloat>, "torch"_a, "tensors"_a, "dims"_a);
}

}  // namespace skd
