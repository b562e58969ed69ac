// AVX-512 F, BW, VL, DQ: Skylake-X.
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/kernels.h"

namespace skd {
namespace avx512 {
namespace {

#include "kernels/vec/all_x86.inl"
#include "kernels/vec/avx512.inl"
#include "kernels/vec/avx512_bf16_emulated_dot.inl"
#include "kernels/vec/avx512_bf16_window.inl"
#include "kernels/vec/avx512_csr.inl"
#include "kernels/vec/avx512_float_window.inl"
#include "kernels/vec/avx512_maddubs_dot.inl"
#include "kernels/vec/avx512_vpshufb_window.inl"

#include "kernels/bodies/activations.inl"
#include "kernels/bodies/common.inl"  // what the kernels below use
#include "kernels/bodies/requantize.inl"
#include "kernels/bodies/store_tile.inl"

#include "kernels/bodies/add.inl"
#include "kernels/bodies/csr_f32.inl"
#include "kernels/bodies/dense_s8.inl"
#include "kernels/bodies/depthwise.inl"
#include "kernels/bodies/epilogue.inl"
#include "kernels/bodies/float_windowed.inl"
#include "kernels/bodies/pool.inl"
#include "kernels/bodies/quantize.inl"
#include "kernels/bodies/row_pointers.inl"
#include "kernels/bodies/transpose.inl"
#include "kernels/bodies/windowed_bf16.inl"
#include "kernels/bodies/windowed_f32.inl"
#include "kernels/bodies/windowed_s8.inl"

#include "kernels/bodies/conv_s8.inl"  // on top of those

}  // namespace
}  // namespace avx512

const KernelTable kAvx512Table = {
    "avx512",
    avx512::kWindowedRows,
    avx512::kDenseRows,
    avx512::kConvRows,
    avx512::quantize_dynamic_s8,
    avx512::quantize_static_u8,
    avx512::linear_windowed_s8,
    avx512::linear_dense_s8,
    avx512::epilogue_fp32,
    avx512::absolute_maximum,
    avx512::depthwise_s8,
    avx512::depthwise_f32,
    avx512::epilogue_sums,
    avx512::linear_windowed_f32,
    avx512::linear_windowed_bf16,
    avx512::to_bf16,
    avx512::linear_csr_f32,
    avx512::transpose_f32,
    avx512::conv_windowed_s8,
    avx512::conv_dense_s8,
    avx512::row_pointers_u8,
    avx512::dequantize_u8,
    avx512::max_pool_u8,
    avx512::max_pool_f32,
    avx512::average_pool_u8,
    avx512::average_pool_f32,
    avx512::add_u8,
};

}  // namespace skd
