// AVX2 with FMA and F16C: Haswell, Zen and later.
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/kernels.h"

namespace skd {
namespace avx2 {
namespace {

#include "kernels/vec/all_memory_window.inl"
#include "kernels/vec/all_x86.inl"
#include "kernels/vec/avx2.inl"
#include "kernels/vec/avx2_csr.inl"
#include "kernels/vec/avx2_float_window.inl"
#include "kernels/vec/avx2_s8_window.inl"

#include "kernels/vec/plain_pointers.inl"

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
}  // namespace avx2

const KernelTable kAvx2Table = {
    "avx2",
    avx2::kWindowedRows,
    avx2::kDenseRows,
    avx2::kConvRows,
    avx2::quantize_dynamic_s8,
    avx2::quantize_static_u8,
    avx2::linear_windowed_s8,
    avx2::linear_dense_s8,
    avx2::epilogue_fp32,
    avx2::absolute_maximum,
    avx2::depthwise_s8,
    avx2::depthwise_f32,
    avx2::epilogue_sums,
    avx2::linear_windowed_f32,
    avx2::linear_windowed_bf16,
    avx2::to_bf16,
    avx2::linear_csr_f32,
    avx2::transpose_f32,
    avx2::conv_windowed_s8,
    avx2::conv_dense_s8,
    avx2::row_pointers_u8,
    avx2::dequantize_u8,
    avx2::max_pool_u8,
    avx2::max_pool_f32,
    avx2::average_pool_u8,
    avx2::average_pool_f32,
    avx2::add_u8,
};

}  // namespace skd
