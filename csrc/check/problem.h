// A problem is a small record made from (seed, index) alone: what to run, on which shapes, with
// which kind of data. The data themselves (check/data.h) follow from it, so that one line of text,
// `skd-check --isa X --seed S --only K`, repeats any problem exactly.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/kernels.h"
#include "ops/conv2d.h"

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
  conv_windowed_s8,  // the whole operation of ops/conv2d.h
  conv_dense_s8,
  conv_depthwise_s8,
  tile_windowed_f32,
  tile_windowed_bf16,
  linear_windowed_f32,  // the whole operation of ops/linear_float.h
  linear_windowed_bf16,
  format_windowed_f32,
  format_windowed_bf16,
  linear_csr_f32,  // the whole operation of ops/linear_csr.h
  format_csr_f32,
  conv_windowed_f32,
  conv_windowed_bf16,
  conv_depthwise_f32,
  tile_depthwise_s8,  // entries of the table that layers above reach only in part
  tile_depthwise_f32,
  tile_csr_f32,
  epilogue_sums,
  transpose_f32,
  to_bf16,
  absolute_maximum,
  refuse_conv,  // geometry, images and weights that a convolution must not accept
  dequantize_u8,
  max_pool_u8,  // the whole operations of ops/pool2d.h and ops/add.h
  max_pool_f32,
  avg_pool_u8,
  avg_pool_f32,
  add_images,
};
inline constexpr int kOps = 38;
const char* name_of(Op op);

// What an operation is made of.
inline bool is_depthwise(Op op) {
  return op == Op::conv_depthwise_s8 || op == Op::conv_depthwise_f32;
}
inline bool is_conv(Op op) {
  return is_depthwise(op) || op == Op::conv_windowed_s8 || op == Op::conv_dense_s8 ||
         op == Op::conv_windowed_f32 || op == Op::conv_windowed_bf16;
}
inline bool is_pool(Op op) {
  return op == Op::max_pool_u8 || op == Op::max_pool_f32 || op == Op::avg_pool_u8 ||
         op == Op::avg_pool_f32;
}
inline bool is_csr(Op op) {
  return op == Op::linear_csr_f32 || op == Op::format_csr_f32 || op == Op::tile_csr_f32;
}
inline bool is_bf16(Op op) {
  return op == Op::tile_windowed_bf16 || op == Op::linear_windowed_bf16 ||
         op == Op::format_windowed_bf16 || op == Op::conv_windowed_bf16 || op == Op::to_bf16;
}
inline bool has_float_windows(Op op) {
  return (is_bf16(op) && op != Op::to_bf16) || op == Op::tile_windowed_f32 ||
         op == Op::linear_windowed_f32 || op == Op::format_windowed_f32 ||
         op == Op::conv_windowed_f32;
}
inline bool is_windowed(Op op) {
  return has_float_windows(op) || op == Op::tile_windowed_s8 || op == Op::linear_windowed_s8 ||
         op == Op::format_windowed_s8 || op == Op::conv_windowed_s8;
}
inline bool is_float(Op op) {
  return has_float_windows(op) || is_csr(op) || op == Op::conv_depthwise_f32 ||
         op == Op::tile_depthwise_f32 || op == Op::epilogue_sums || op == Op::transpose_f32 ||
         op == Op::to_bf16 || op == Op::absolute_maximum;
}
inline bool is_linear(Op op) {
  return op == Op::linear_windowed_s8 || op == Op::linear_dense_s8 ||
         op == Op::linear_windowed_f32 || op == Op::linear_windowed_bf16 ||
         op == Op::linear_csr_f32;
}
inline bool is_tile(Op op) {
  return op == Op::tile_windowed_s8 || op == Op::tile_dense_s8 || op == Op::tile_windowed_f32 ||
         op == Op::tile_windowed_bf16 || op == Op::tile_depthwise_s8 ||
         op == Op::tile_depthwise_f32;
}
// One vector of floats in.
inline bool is_vector(Op op) {
  return op == Op::quantize_dynamic_s8 || op == Op::quantize_static_u8 || op == Op::to_bf16 ||
         op == Op::absolute_maximum;
}
inline bool is_format(Op op) {
  return op == Op::format_windowed_s8 || op == Op::format_dense_s8 ||
         op == Op::format_windowed_f32 || op == Op::format_windowed_bf16 ||
         op == Op::format_csr_f32;
}

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
enum class Residual : int { none, f32, u8 };
enum class Environment : int { standard, flush, upward, downward, toward_zero, flush_upward };

// What a convolution has beside the fields of every problem; its batch is `rows`, and `outputs`,
// `inputs` (of one group) and `taps` follow from the geometry.
struct Images {
  ConvGeometry geometry{};
  std::int64_t height = 1, width = 1, out_height = 1, out_width = 1;
  Layout in = Layout::nchw, out = Layout::nchw;
  Layout residual = Layout::nhwc;
  bool u8_in = false, u8_out = false;
  std::int32_t out_zero_point = 0;
  bool ceil_mode = false, include_pad = false;  // of pools, which pad alike on both sides
  std::int64_t divisor = 0;                     // of an average: 0 for none
};

struct Problem {
  std::uint64_t seed = 0;  // of the data
  Op op = Op::quantize_dynamic_s8;
  std::int64_t rows = 1, outputs = 1, inputs = 1;  // a depthwise tile: outputs are the channels
  int taps = 1;
  std::int64_t groups = 1;  // of a format; those of a convolution are in its geometry
  std::int64_t first_slice = 0, slice_count = 1;  // tiles
  Mask mask = Mask::full;
  int mask_n = 0;
  int window = 32;       // of a float format
  bool ordered = false;  // outputs stand in an order of their own
  WeightFill weights = WeightFill::any;
  ByteFill bytes = ByteFill::any;
  FloatFill floats = FloatFill::normal;
  bool dynamic = true, bias = false;
  std::int32_t zero_point = 128;
  Activation activation = Activation::none;
  Residual residual = Residual::none;    // of convolutions and epilogues
  std::int64_t in_gap = 0, out_gap = 0;  // elements between the rows of the input and the output
  std::int64_t split = 0;                // layers: rows of a first call, the rest in a second
  int threads = 1;
  Environment environment = Environment::standard;
  bool same_rows = false;  // all rows of the input are one and the same (stride 0, padding rows)
  Images images;
};

inline std::int64_t groups_of(const Problem& p) {
  return is_conv(p.op) ? p.images.geometry.groups : p.groups;
}

Problem make_problem(std::uint64_t seed, std::uint64_t index);
std::string describe(const Problem& problem);

}  // namespace skd::check
