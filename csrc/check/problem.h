// A problem is a small record made from (seed, index) alone: what to run, on which shapes, with
// which kind of data. The data themselves (check/data.h) follow from it, so that one line of text,
// `skd-check --isa X --seed S --only K`, repeats any problem exactly.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/kernels.h"

namespace skd::check {

enum class Op : int {
  quantize_dynamic_s8,
  quantize_static_u8,
  tile_windowed_s8,
  tile_dense_s8,
  epilogue_fp32,
  linear_windowed_s8,  // the whole operation of ops/linear.h
  linear_dense_s8,
  format_windowed_s8,  // pack, unpack and the refusal of malformed parts
  format_dense_s8,
  refuse_linear_s8,  // scales, zero points and sums that a layer must not accept
};
inline constexpr int kOps = 10;
const char* name_of(Op op);

enum class Mask : int {
  full,
  empty,
  nm_32,       // mask_n of every 32 inputs
  nm_64,       // mask_n of every 64 inputs
  random,      // mask_n percent of all
  one_output,  // a single output has weights
  ragged,      // very different counts from output to output
  half,        // all weights of a window in one of its halves
  quarter,     // every output keeps to one quarter of a window, each its own
  last_input,  // only the last input of a tap
};
enum class WeightFill : int { any, small, extremes, all_127 };
enum class ByteFill : int { any, small, extremes, all_255 };
enum class FloatFill : int {
  normal,
  integers,
  ties,
  wide,
  zeros,
  tiny,
  subnormal,
  nan,
  inf,
  huge,
  mixed
};
enum class Environment : int { standard, flush, upward, downward, toward_zero, flush_upward };

struct Problem {
  std::uint64_t seed = 0;  // of the data
  Op op = Op::quantize_dynamic_s8;
  std::int64_t rows = 1, outputs = 1, inputs = 1;
  int taps = 1;
  std::int64_t first_slice = 0, slice_count = 1;  // tiles
  Mask mask = Mask::full;
  int mask_n = 0;
  WeightFill weights = WeightFill::any;
  ByteFill bytes = ByteFill::any;
  FloatFill floats = FloatFill::normal;
  bool dynamic = true, bias = false;
  std::int32_t zero_point = 128;
  Activation activation = Activation::none;
  std::int64_t in_gap = 0, out_gap = 0;  // elements between the rows of the input and the output
  std::int64_t split = 0;                // linear: rows of a first call, the rest in a second
  int threads = 1;
  Environment environment = Environment::standard;
  bool same_rows = false;  // all rows of the input are one and the same (stride 0, padding rows)
};

Problem make_problem(std::uint64_t seed, std::uint64_t index);
std::string describe(const Problem& problem);

}  // namespace skd::check
