// What every Linear has in Python: its sizes, a call on addresses, and the direct call.
#pragma once

#include <cstdint>

#include "bindings/direct.h"

namespace skd {

// x and y: addresses of contiguous fp32 matrices.
template <class Layer>
void forward_linear(const Layer& layer, std::uintptr_t x, std::int64_t rows, std::uintptr_t y,
                    int threads) {
  const float* from = data_at<const float>(x, rows * layer.inputs(), "input");
  float* to = data_at<float>(y, rows * layer.outputs(), "output");
  const py::gil_scoped_release release;
  layer.forward({from, rows, layer.inputs(), to, layer.outputs(), threads});
}

template <class Layer>
void def_calls(py::class_<Layer>& bound) {
  using namespace pybind11::literals;
  bound.def_property_readonly("inputs", &Layer::inputs)
      .def_property_readonly("outputs", &Layer::outputs)
      .def("forward", &forward_linear<Layer>, "x"_a, "rows"_a, "y"_a, "threads"_a)
      .def("direct", &direct_linear<Layer>, "torch"_a, "tensors"_a);
}

}  // namespace skd
