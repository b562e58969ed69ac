#include "check/runner.h"

namespace skd::check {

Coverage run(const Problem& problem, const Subject& subject) {
  switch (problem.op) {
    case Op::quantize_dynamic_s8:
    case Op::quantize_static_u8:
      return run_quantize(problem, subject);
    case Op::max_pool_u8:
    case Op::max_pool_f32:
    case Op::avg_pool_u8:
    case Op::avg_pool_f32:
      return run_pool(problem, subject);
    case Op::add_images:
      return run_add(problem, subject);
    case Op::dequantize_u8:
      return run_dequantize(problem, subject);
    case Op::tile_windowed_s8:
    case Op::tile_dense_s8:
      return run_tile(problem, subject);
    case Op::epilogue_fp32:
      return run_epilogue(problem, subject);
    case Op::linear_windowed_s8:
    case Op::linear_dense_s8:
      return run_linear(problem, subject);
    case Op::format_windowed_s8:
      return run_windowed_format(problem, subject.memory);
    case Op::format_dense_s8:
      return run_dense_format(problem, subject.memory);
    case Op::refuse_linear_s8:
      return run_refusal(problem, subject);
    case Op::conv_windowed_s8:
    case Op::conv_dense_s8:
    case Op::conv_depthwise_s8:
      return run_conv_s8(problem, subject);
    case Op::conv_windowed_f32:
    case Op::conv_windowed_bf16:
    case Op::conv_depthwise_f32:
      return run_conv_float(problem, subject);
    case Op::tile_windowed_f32:
    case Op::tile_windowed_bf16:
      return run_tile_float(problem, subject);
    case Op::linear_windowed_f32:
    case Op::linear_windowed_bf16:
    case Op::linear_csr_f32:
      return run_linear_float(problem, subject);
    case Op::format_windowed_f32:
    case Op::format_windowed_bf16:
      return run_float_format(problem, subject.memory);
    case Op::format_csr_f32:
      return run_csr_format(problem, subject.memory);
    case Op::tile_depthwise_s8:
    case Op::tile_depthwise_f32:
      return run_tile_depthwise(problem, subject);
    case Op::tile_csr_f32:
      return run_tile_csr(problem, subject);
    case Op::epilogue_sums:
      return run_epilogue_sums(problem, subject);
    case Op::transpose_f32:
      return run_transpose(problem, subject);
    case Op::to_bf16:
      return run_to_bf16(problem, subject);
    case Op::refuse_conv:
      return run_conv_refusal(problem, subject);
    case Op::absolute_maximum:
      return run_absolute_maximum(problem, subject);
  }
  throw Failure("no such operation");
}

}  // namespace skd::check
