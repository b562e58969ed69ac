// The extension module. Only the files in this folder see pybind11. Python sees skd::Error as
// ValueError.
#include <dlfcn.h>
#include <pybind11/stl.h>

#include <utility>

#include "bindings/arrays.h"
#include "core/buffer.h"
#include "dispatch/dispatch.h"
#include "source_hash.h"

namespace py = pybind11;
using namespace py::literals;

namespace skd {

Activation activation_from(const std::string& name) {
  const std::pair<const char*, Activation> known[] = {
      {"none", Activation::none},   {"relu", Activation::relu},
      {"gelu", Activation::gelu},   {"silu", Activation::silu},
      {"relu6", Activation::relu6}, {"hardswish", Activation::hardswish}};
  for (const auto& [text, activation] : known) {
    if (name == text) return activation;
  }
  throw Error("unknown activation '" + name + "'; known: none, relu, gelu, silu, relu6, hardswish");
}

}  // namespace skd

namespace {

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
  m.def("buffer_bytes",
        [] { return std::make_pair(skd::BufferBytes::held(), skd::BufferBytes::most()); });
  m.def("restart_buffer_bytes", &skd::BufferBytes::restart);

  skd::bind_direct(m);
  skd::bind_linear_s8(m);
  skd::bind_conv2d(m);
  skd::bind_images(m);
  skd::bind_linear_csr(m);
  skd::bind_linear_float(m);
  skd::bind_windowed(m);
  skd::bind_rates(m);
}
