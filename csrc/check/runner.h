// Runs a problem on one kernel table and compares it with the reference.
#pragma once

#include "check/compare.h"
#include "check/environment.h"
#include "check/guard.h"
#include "check/problem.h"
#include "kernels/kernels.h"

namespace skd::check {

// What a problem runs on. `table` may be a mutant; `is_scalar` says that it is, or derives from,
// the scalar table, with which GELU and SiLU are then not compared.
struct Subject {
  const KernelTable& table;
  bool is_scalar;
  GuardedMemory& memory;
};

// Every operand touches a guard page, once behind its end and once before its start. Throws Failure
// (or whatever the library throws) when something is wrong.
Coverage run(const Problem& problem, const Subject& subject);

// The parts of run(), one file each.
Coverage run_quantize(const Problem& problem, const Subject& subject);  // run_kernels.cpp
Coverage run_dequantize(const Problem& problem, const Subject& subject);
Coverage run_tile(const Problem& problem, const Subject& subject);
Coverage run_epilogue(const Problem& problem, const Subject& subject);
Coverage run_linear(const Problem& problem, const Subject& subject);  // run_linear.cpp
Coverage run_refusal(const Problem& problem, const Subject& subject);
Coverage run_conv_s8(const Problem& problem, const Subject& subject);     // run_conv_s8.cpp
Coverage run_tile_float(const Problem& problem, const Subject& subject);  // run_float.cpp
Coverage run_linear_float(const Problem& problem, const Subject& subject);
Coverage run_float_format(const Problem& problem, GuardedMemory& memory);  // run_float_formats.cpp
Coverage run_conv_float(const Problem& problem, const Subject& subject);   // run_conv_float.cpp
Coverage run_csr_format(const Problem& problem, GuardedMemory& memory);    // run_csr_format.cpp
Coverage run_windowed_format(const Problem& problem, GuardedMemory& memory);  // run_formats.cpp
Coverage run_dense_format(const Problem& problem, GuardedMemory& memory);
Coverage run_tile_depthwise(const Problem& problem, const Subject& subject);  // run_depthwise.cpp
Coverage run_tile_csr(const Problem& problem, const Subject& subject);        // run_csr_tile.cpp
Coverage run_to_bf16(const Problem& problem, const Subject& subject);  // run_float_kernels.cpp
Coverage run_absolute_maximum(const Problem& problem, const Subject& subject);
Coverage run_transpose(const Problem& problem, const Subject& subject);
Coverage run_conv_refusal(const Problem& problem, const Subject& subject);  // run_conv_refusal.cpp
Coverage run_pool(const Problem& problem, const Subject& subject);          // run_pool.cpp
Coverage run_add(const Problem& problem, const Subject& subject);           // run_add.cpp
Coverage run_epilogue_sums(const Problem& problem, const Subject& subject);

// Runs `body` as a caller with the given floating-point environment would; throws when it is not as
// it was afterwards, or when an operand's surroundings were written to.
template <class Body>
void guarded_call(Environment environment, const GuardedMemory& memory, const Body& body) {
  bool unchanged = false;
  {
    const CallerEnvironment caller(environment);
    body();
    unchanged = caller.unchanged();
  }
  expect(unchanged, "the floating-point control word was changed");
  const char* overwritten = memory.overwritten();
  expect(overwritten == nullptr, "wrote outside ", overwritten == nullptr ? "" : overwritten);
}

}  // namespace skd::check
