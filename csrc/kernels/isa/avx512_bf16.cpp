// AVX512_BF16 beside VBMI: Zen 4, Sapphire Rapids and later. What it changes and nothing else.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/kernels.h"

namespace skd {
namespace avx512_bf16 {
namespace {

#include "kernels/vec/avx512.inl"
#include "kernels/vec/avx512_bf16_dot.inl"
#include "kernels/vec/avx512_bf16_window.inl"

constexpr int kWindowedRows = 8;

#include "kernels/bodies/float_windowed.inl"
#include "kernels/bodies/windowed_bf16.inl"

}  // namespace
}  // namespace avx512_bf16

const Bf16Kernels kAvx512Bf16Kernels = {
    avx512_bf16::linear_windowed_bf16,
    avx512_bf16::to_bf16,
};

}  // namespace skd
