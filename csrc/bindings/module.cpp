// The only file that sees pybind11. Arrays are checked here for dtype and layout; what they mean is
// checked where it is defined. Python sees skd::Error as ValueError.
#include <dlfcn.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "core/check.h"
#include "core/sizes.h"
#include "dispatch/dispatch.h"
#include "formats/dense_s8.h"
#include "formats/windowed_s8.h"
#include "ops/linear.h"
#include "source_hash.h"

namespace py = pybind11;
using namespace py::literals;

namespace {

using S8 = py::array_t<std::int8_t>;
using U8 = py::array_t<std::uint8_t>;
using I64 = py::array_t<std::int64_t>;
using F32 = py::array_t<float>;

// The array's data after a check of dtype, dimensions and layout; -1 stands for any length.
template <class T>
const T* data_of(const py::array& array, const char* name,
                 std::initializer_list<py::ssize_t> shape) {
  skd::require(py::isinstance<py::array_t<T>>(array), name, ": dtype ",
               std::string(py::str(array.dtype())), ", expected ",
               std::string(py::str(py::dtype::of<T>())));
  bool fits = array.ndim() == static_cast<py::ssize_t>(shape.size());
  std::string expected;
  py::ssize_t axis = 0;
  for (const py::ssize_t length : shape) {
    fits = fits && (length < 0 || array.shape(axis) == length);
    expected +=
        (axis++ > 0 ? ", " : "") + (length < 0 ? std::string("any") : std::to_string(length));
  }
  skd::require(fits, name, ": shape ", std::string(py::str(array.attr("shape"))), ", expected (",
               expected, ")");
  skd::require((array.flags() & py::array::c_style) != 0, name,
               ": not contiguous, expected a row-major array");
  return static_cast<const T*>(array.data());
}

struct DenseMatrix {
  const std::int8_t* data;
  std::int64_t outputs, inputs;
};

DenseMatrix matrix_of(const py::array& weight) {
  const std::int8_t* data = data_of<std::int8_t>(weight, "weight", {-1, -1});
  return {data, weight.shape(0), weight.shape(1)};
}

skd::WindowedS8Weight windowed_from(const py::array& values, const py::array& positions,
                                    const py::array& steps, const py::array& step_ptr,
                                    std::int64_t outputs, std::int64_t inputs) {
  skd::require(outputs >= 0 && inputs >= 0, "a weight of ", outputs, " outputs and ", inputs,
               " inputs, expected at least 0");
  skd::WindowedS8Parts parts;
  parts.values = data_of<std::int8_t>(values, "values", {-1, skd::kLanes, skd::kDot});
  parts.total_steps = values.shape(0);
  parts.positions =
      data_of<std::uint8_t>(positions, "positions", {values.shape(0), skd::kLanes, skd::kDot});
  parts.slices = skd::ceil_div(outputs, skd::kLanes);
  parts.windows = skd::ceil_div(inputs, skd::kWindow);
  parts.steps = data_of<std::uint8_t>(steps, "steps", {parts.slices, parts.windows});
  parts.step_ptr = data_of<std::int64_t>(step_ptr, "step_ptr", {parts.slices + 1});
  return skd::WindowedS8Weight::from_parts(parts, outputs, inputs);
}

py::tuple pack_windowed_s8(const py::array& weight) {
  const DenseMatrix dense = matrix_of(weight);
  const auto packed = skd::WindowedS8Weight::pack(dense.data, dense.outputs, dense.inputs);
  const skd::WindowedS8Parts parts = packed.parts();
  const py::ssize_t lanes = skd::kLanes, dot = skd::kDot;
  return py::make_tuple(S8({parts.total_steps, lanes, dot}, parts.values),
                        U8({parts.total_steps, lanes, dot}, parts.positions),
                        U8({parts.slices, parts.windows}, parts.steps),
                        I64({parts.slices + 1}, parts.step_ptr));
}

S8 unpack_windowed_s8(const py::array& values, const py::array& positions, const py::array& steps,
                      const py::array& step_ptr, std::int64_t outputs, std::int64_t inputs) {
  const auto weight = windowed_from(values, positions, steps, step_ptr, outputs, inputs);
  S8 dense({outputs, inputs});
  weight.unpack(dense.mutable_data());
  return dense;
}

skd::DenseS8Weight dense_from(const py::array& panels, std::int64_t outputs, std::int64_t inputs) {
  skd::require(outputs >= 0 && inputs >= 0, "a weight of ", outputs, " outputs and ", inputs,
               " inputs, expected at least 0");
  const std::int8_t* data =
      data_of<std::int8_t>(panels, "panels",
                           {skd::ceil_div(outputs, skd::kLanes), skd::ceil_div(inputs, skd::kDot),
                            skd::kLanes, skd::kDot});
  return skd::DenseS8Weight::from_parts(data, panels.size(), outputs, inputs);
}

S8 pack_dense_s8(const py::array& weight) {
  const DenseMatrix dense = matrix_of(weight);
  const auto packed = skd::DenseS8Weight::pack(dense.data, dense.outputs, dense.inputs);
  return S8({static_cast<py::ssize_t>(packed.slices()), static_cast<py::ssize_t>(packed.quads()),
             static_cast<py::ssize_t>(skd::kLanes), static_cast<py::ssize_t>(skd::kDot)},
            packed.panels());
}

S8 unpack_dense_s8(const py::array& panels, std::int64_t outputs, std::int64_t inputs) {
  const auto weight = dense_from(panels, outputs, inputs);
  S8 dense({outputs, inputs});
  weight.unpack(dense.mutable_data());
  return dense;
}

skd::Activation activation_from(const std::string& name) {
  const std::pair<const char*, skd::Activation> known[] = {{"none", skd::Activation::none},
                                                           {"relu", skd::Activation::relu},
                                                           {"gelu", skd::Activation::gelu},
                                                           {"silu", skd::Activation::silu}};
  for (const auto& [text, activation] : known) {
    if (name == text) return activation;
  }
  throw skd::Error("unknown activation '" + name + "'; known: none, relu, gelu, silu");
}

skd::LinearS8 linear_from(skd::LinearS8::Weight weight, std::int64_t outputs,
                          const py::array& scale, const std::optional<py::array>& bias,
                          std::optional<float> input_scale, std::int32_t input_zero_point,
                          const std::string& activation) {
  const float* scales = data_of<float>(scale, "scale", {outputs});
  const float* biases = bias ? data_of<float>(*bias, "bias", {outputs}) : nullptr;
  const skd::ActivationQuant quant{!input_scale, input_scale.value_or(1.0f), input_zero_point};
  return skd::LinearS8(std::move(weight), scales, biases, quant, activation_from(activation));
}

template <class T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// x and y as addresses of contiguous fp32 matrices that the caller has checked: a call must cost
// little, and reading a tensor's attributes through a protocol costs more than a small layer.
void forward(const skd::LinearS8& linear, std::uintptr_t x, std::int64_t rows, std::uintptr_t y,
             int threads) {
  const py::gil_scoped_release release;
  linear.forward({pointer<const float>(x), rows, linear.inputs(), pointer<float>(y),
                  linear.outputs(), threads});
}

// Where the OpenMP runtime that this extension calls lives; `doctor` checks that it is torch's.
std::string openmp_library() {
  Dl_info info{};
  void* symbol = dlsym(RTLD_DEFAULT, "omp_get_max_threads");
  return symbol != nullptr && dladdr(symbol, &info) != 0 ? info.dli_fname : "";
}

}  // namespace

PYBIND11_MODULE(_native, m, py::mod_gil_not_used()) {
  m.doc() = "The compiled engine of sparsekd; use it through sparsekd.backend.";
  m.attr("source_hash") = SKD_SOURCE_HASH;
  m.attr("compiler") = __VERSION__;

  m.def("isa", &skd::isa);
  m.def("known_isas", &skd::known_isas);
  m.def("available_isas", &skd::available_isas);
  m.def("set_isa", &skd::set_isa, "name"_a);
  m.def("cpu_features", &skd::cpu_features);
  m.def("openmp_library", &openmp_library);

  m.def("pack_windowed_s8", &pack_windowed_s8, "weight"_a);
  m.def("unpack_windowed_s8", &unpack_windowed_s8, "values"_a, "positions"_a, "steps"_a,
        "step_ptr"_a, "outputs"_a, "inputs"_a);
  m.def("pack_dense_s8", &pack_dense_s8, "weight"_a);
  m.def("unpack_dense_s8", &unpack_dense_s8, "panels"_a, "outputs"_a, "inputs"_a);

  py::class_<skd::LinearS8>(m, "LinearS8")
      .def_static(
          "windowed",
          [](const py::array& values, const py::array& positions, const py::array& steps,
             const py::array& step_ptr, std::int64_t inputs, const py::array& scale,
             const std::optional<py::array>& bias, std::optional<float> input_scale,
             std::int32_t input_zero_point, const std::string& activation) {
            const std::int64_t outputs = scale.size();
            return linear_from(windowed_from(values, positions, steps, step_ptr, outputs, inputs),
                               outputs, scale, bias, input_scale, input_zero_point, activation);
          },
          "values"_a, "positions"_a, "steps"_a, "step_ptr"_a, "inputs"_a, "scale"_a, "bias"_a,
          "input_scale"_a, "input_zero_point"_a, "activation"_a)
      .def_static(
          "dense",
          [](const py::array& panels, std::int64_t inputs, const py::array& scale,
             const std::optional<py::array>& bias, std::optional<float> input_scale,
             std::int32_t input_zero_point, const std::string& activation) {
            const std::int64_t outputs = scale.size();
            return linear_from(dense_from(panels, outputs, inputs), outputs, scale, bias,
                               input_scale, input_zero_point, activation);
          },
          "panels"_a, "inputs"_a, "scale"_a, "bias"_a, "input_scale"_a, "input_zero_point"_a,
          "activation"_a)
      .def_property_readonly("inputs", &skd::LinearS8::inputs)
      .def_property_readonly("outputs", &skd::LinearS8::outputs)
      .def("forward", &forward, "x"_a, "rows"_a, "y"_a, "threads"_a);
}
