// The machine's own limits, measured: fixed loops of one kind of instruction, run for a while by
// each thread. What a kernel reaches is told as a share of these, in the same run, since clocks
// move. Nothing of the engine calls this.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace skd {

// A loop over registers alone.
struct RateProbe {
  const char* name;
  std::int64_t work;  // multiply-adds of one turn of the loop
  void (*run)(std::int64_t turns);
};

// Those that this CPU can run:
//   vpdpbusd     64 multiply-adds of bytes an instruction; the bound of dense int8
//   vpermb+dot   vpermb and vpdpbusd in pairs; the bound of windowed int8
//   fma          16 multiply-adds of fp32 an instruction (8 with AVX2); the bound of dense fp32
//   vpermps+fma  in pairs; the bound of windowed fp32
std::vector<RateProbe> rate_probes();

// Runs the named one, `turns` turns in each of `threads` threads at once. Returns the multiply-adds
// of all threads together. Throws on an unknown or unavailable name, listing the choices.
std::int64_t run_rate_probe(const std::string& name, std::int64_t turns, int threads);

// Reads `bytes` bytes at `data` (64-byte aligned), each thread a part of its own, `turns` times
// over. Returns the bytes that were read by all threads together.
std::int64_t read_memory(const void* data, std::int64_t bytes, std::int64_t turns, int threads);

}  // namespace skd
