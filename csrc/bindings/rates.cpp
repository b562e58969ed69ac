// The machine's measured limits, for benchmarks.
#include "probe/rates.h"

#include "bindings/arrays.h"

namespace skd {

void bind_rates(py::module_& m) {
  using namespace pybind11::literals;
  m.def("rate_names", [] {
    py::list names;
    for (const RateProbe& probe : rate_probes()) names.append(probe.name);
    return names;
  });
  m.def("run_rate", &run_rate_probe, "name"_a, "turns"_a, "threads"_a,
        py::call_guard<py::gil_scoped_release>());
  m.def(
      "read_memory",
      [](std::uintptr_t data, std::int64_t bytes, std::int64_t turns, int threads) {
        const auto* from = data_at<const void>(data, bytes, "data");
        const py::gil_scoped_release release;
        return read_memory(from, bytes, turns, threads);
      },
      "data"_a, "bytes"_a, "turns"_a, "threads"_a);
}

}  // namespace skd
