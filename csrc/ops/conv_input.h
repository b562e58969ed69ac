// fp32 images to the u8 NHWC rows of an int8 convolution.
#pragma once

#include <cstdint>

#include "ops/conv_call.h"
#include "ops/linear.h"

namespace skd {

// Quantizes this thread's part of every sample; all threads of a parallel() call take part, and
// need a barrier before they read. scales [batch] gets the scale of each sample, by thread 0.
// maxima: [threads][batch] scratch, of dynamic quantization.
void quantize_images(const KernelTable& table, const ConvInput& x, std::int64_t channels,
                     const ActivationQuant& quant, int thread, int threads, std::uint32_t* maxima,
                     float* scales, std::uint8_t* u);

}  // namespace skd
