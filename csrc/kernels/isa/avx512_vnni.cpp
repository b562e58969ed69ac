// AVX-512 with VNNI: Cascade Lake.
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/kernels.h"

namespace skd {
namespace avx512_vnni {
namespace {

#include "kernels/vec/all_x86.inl"
#include "kernels/vec/avx512.inl"
#include "kernels/vec/avx512_bf16_emulated_dot.inl"
#include "kernels/vec/avx512_bf16_window.inl"
#include "kernels/vec/avx512_csr.inl"
#include "kernels/vec/avx512_float_window.inl"
#include "kernels/vec/avx512_vnni_dot.inl"
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
}  // namespace avx512_vnni

const KernelTable kAvx512VnniTable = {
    "avx512_vnni",
    avx512_vnni::kWindowedRows,
    avx512_vnni::kDenseRows,
    avx512_vnni::kConvRows,
    avx512_vnni::quantize_dynamic_s8,
    avx512_vnni::quantize_static_u8,
    avx512_vnni::linear_windowed_s8,
    avx512_vnni::linear_dense_s8,
    avx512_vnni::epilogue_fp32,
    avx512_vnni::absolute_maximum,
    avx512_vnni::depthwise_s8,
    avx512_vnni::depthwise_f32,
    avx512_vnni::epilogue_sums,
    avx512_vnni::linear_windowed_f32,
    avx512_vnni::linear_windowed_bf16,
    avx512_vnni::to_bf16,
    avx512_vnni::linear_csr_f32,
    avx512_vnni::transpose_f32,
    avx512_vnni::conv_windowed_s8,
    avx512_vnni::conv_dense_s8,
    avx512_vnni::row_pointers_u8,
    avx512_vnni::dequantize_u8,
    avx512_vnni::max_pool_u8,
    avx512_vnni::max_pool_f32,
    avx512_vnni::average_pool_u8,
    avx512_vnni::average_pool_f32,
    avx512_vnni::add_u8,
};

}  // namespace skd
