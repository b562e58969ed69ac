// AVX-512 with VNNI and VBMI: Ice Lake, Zen 4 and later.
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/kernels.h"

namespace skd {
namespace avx512_vbmi {
namespace {

#include "kernels/vec/all_x86.inl"
#include "kernels/vec/avx512.inl"
#include "kernels/vec/avx512_bf16_emulated_dot.inl"
#include "kernels/vec/avx512_bf16_window.inl"
#include "kernels/vec/avx512_csr.inl"
#include "kernels/vec/avx512_float_window.inl"
#include "kernels/vec/avx512_vnni_dot.inl"
#include "kernels/vec/avx512_vpermb_window.inl"

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
}  // namespace avx512_vbmi

const KernelTable kAvx512VbmiTable = {
    "avx512_vbmi",
    avx512_vbmi::kWindowedRows,
    avx512_vbmi::kDenseRows,
    avx512_vbmi::kConvRows,
    avx512_vbmi::quantize_dynamic_s8,
    avx512_vbmi::quantize_static_u8,
    avx512_vbmi::linear_windowed_s8,
    avx512_vbmi::linear_dense_s8,
    avx512_vbmi::epilogue_fp32,
    avx512_vbmi::absolute_maximum,
    avx512_vbmi::depthwise_s8,
    avx512_vbmi::depthwise_f32,
    avx512_vbmi::epilogue_sums,
    avx512_vbmi::linear_windowed_f32,
    avx512_vbmi::linear_windowed_bf16,
    avx512_vbmi::to_bf16,
    avx512_vbmi::linear_csr_f32,
    avx512_vbmi::transpose_f32,
    avx512_vbmi::conv_windowed_s8,
    avx512_vbmi::conv_dense_s8,
    avx512_vbmi::row_pointers_u8,
    avx512_vbmi::dequantize_u8,
    avx512_vbmi::max_pool_u8,
    avx512_vbmi::max_pool_f32,
    avx512_vbmi::average_pool_u8,
    avx512_vbmi::average_pool_f32,
    avx512_vbmi::add_u8,
};

}  // namespace skd
