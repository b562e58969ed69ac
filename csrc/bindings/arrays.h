// Arrays from Python, checked for dtype, shape and layout; what they mean is checked where it is
// defined.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <string>

#include "core/check.h"
#include "kernels/kernels.h"

namespace skd {

namespace py = pybind11;

// The array's data after a check of dtype, dimensions and layout; -1 stands for any length.
template <class T>
const T* data_of(const py::array& array, const char* name,
                 std::initializer_list<py::ssize_t> shape) {
  require(py::isinstance<py::array_t<T>>(array), name, ": dtype ",
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
  require(fits, name, ": shape ", std::string(py::str(array.attr("shape"))), ", expected (",
          expected, ")");
  require((array.flags() & py::array::c_style) != 0, name,
          ": not contiguous, expected a row-major array");
  return static_cast<const T*>(array.data());
}

// The address of a contiguous tensor that the caller has checked: a call must cost little, and
// reading a tensor's attributes through a protocol costs more than a small layer. Null stands for a
// tensor without storage, which is refused unless it has no elements.
template <class T>
T* data_at(std::uintptr_t address, std::int64_t elements, const char* name) {
  require(address != 0 || elements == 0, name, ": a tensor whose storage has been freed");
  return reinterpret_cast<T*>(address);
}

Activation activation_from(const std::string& name);

// Each adds its part to the module; one file each.
void bind_direct(py::module_& m);
void bind_linear_s8(py::module_& m);
void bind_conv2d(py::module_& m);
void bind_images(py::module_& m);
void bind_linear_csr(py::module_& m);
void bind_linear_float(py::module_& m);
void bind_windowed(py::module_& m);
void bind_rates(py::module_& m);

}  // namespace skd
