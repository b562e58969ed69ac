// The portable table: baseline instructions alone, on any processor.
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/kernels.h"

namespace skd {
namespace scalar {
namespace {

#include "kernels/vec/all_memory_window.inl"
#include "kernels/vec/scalar.inl"
#include "kernels/vec/scalar_csr.inl"
#include "kernels/vec/scalar_float_window.inl"

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
}  // namespace scalar

const KernelTable kScalarTable = {
    "scalar",
    scalar::kWindowedRows,
    scalar::kDenseRows,
    scalar::kConvRows,
    scalar::quantize_dynamic_s8,
    scalar::quantize_static_u8,
    scalar::linear_windowed_s8,
    scalar::linear_dense_s8,
    scalar::epilogue_fp32,
    scalar::absolute_maximum,
    scalar::depthwise_s8,
    scalar::depthwise_f32,
    scalar::epilogue_sums,
    scalar::linear_windowed_f32,
    scalar::linear_windowed_bf16,
    scalar::to_bf16,
    scalar::linear_csr_f32,
    scalar::transpose_f32,
    scalar::conv_windowed_s8,
    scalar::conv_dense_s8,
    scalar::row_pointers_u8,
    scalar::dequantize_u8,
    scalar::max_pool_u8,
    scalar::max_pool_f32,
    scalar::average_pool_u8,
    scalar::average_pool_f32,
    scalar::add_u8,
};

}  // namespace skd
