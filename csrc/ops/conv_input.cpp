#include "ops/conv_input.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/threads.h"

namespace skd {

namespace {
constexpr float kTiny = 0x1p-100f;  // docs/numerics.md: smaller samples are zeros
}

void quantize_images(const KernelTable& table, const ConvInput& x, std::int64_t channels,
                     const ActivationQuant& quant, int thread, int threads, std::uint32_t* maxima,
                     float* scales, std::uint8_t* u) {
  const ImageShape shape{x.height * x.width, channels};
  const std::int64_t size = shape.pixels * channels;
  if (quant.dynamic) {
    for (std::int64_t n = 0; n < x.batch; ++n) {
      const Range part = part_of(size, thread, threads);
      maxima[thread * x.batch + n] =
          absolute_maximum_bits(table, x.f32 + n * size, part.begin, part.end);
    }
    barrier();
  }
  for (std::int64_t n = 0; n < x.batch; ++n) {
    const Range part = part_of(shape.pixels, thread, threads);
    float sample_scale = quant.scale;
    if (quant.dynamic) {
      std::uint32_t bits = 0;
      for (int t = 0; t < threads; ++t) bits = std::max(bits, maxima[t * x.batch + n]);
      float maximum;
      std::memcpy(&maximum, &bits, sizeof maximum);
      if (!(maximum >= kTiny && maximum <= std::numeric_limits<float>::max())) {
        std::memset(u + n * size + part.begin * channels, quant.zero_point,
                    static_cast<std::size_t>((part.end - part.begin) * channels));
        if (thread == 0) {
          scales[n] = maximum < kTiny ? 1.0f : std::numeric_limits<float>::quiet_NaN();
        }
        continue;
      }
      sample_scale = maximum * (1.0f / 127.0f);
    }
    if (thread == 0) scales[n] = sample_scale;
    quantize_pixels(table, x.f32 + n * size, x.layout, shape, part.begin, part.end,
                    1.0f / sample_scale, quant.zero_point, u + n * size);
  }
}

}  // namespace skd
