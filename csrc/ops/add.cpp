#include "ops/add.h"

#include <algorithm>

#include "core/check.h"
#include "core/fpenv.h"
#include "core/sizes.h"
#include "core/threads.h"
#include "dispatch/dispatch.h"
#include "ops/requantize.h"

namespace skd {
namespace {

constexpr std::int64_t kChunk = 1024;  // elements whose fp32 values stay in L1
constexpr std::int64_t kWorthElements = 128 << 10;

const float* as_f32(const KernelTable& table, const AddInput& x, std::int64_t at,
                    std::int64_t count, float* buffer) {
  if (x.f32 != nullptr) return x.f32 + at;
  table.dequantize_u8(x.u8 + at, count, x.scale.scale, x.scale.zero_point, buffer);
  return buffer;
}

}  // namespace

void add(const AddInput& a, const AddInput& b, const AddOutput& y, std::int64_t count,
         Activation activation, int threads, const KernelTable* table) {
  require(count >= 0, "elements: ", count, ", expected at least 0");
  checked_mul(count, 4);
  require(count == 0 ||
              ((a.f32 == nullptr) != (a.u8 == nullptr) && (b.f32 == nullptr) != (b.u8 == nullptr) &&
               (y.f32 == nullptr) != (y.u8 == nullptr)),
          "inputs and output: expected either fp32 or u8 data");
  if (a.u8 != nullptr) check_u8("first", a.scale.scale, a.scale.zero_point);
  if (b.u8 != nullptr) check_u8("second", b.scale.scale, b.scale.zero_point);
  if (y.u8 != nullptr) check_u8("output", y.scale.scale, y.scale.zero_point);
  if (count == 0) return;
  const DefaultFloatEnvironment environment;  // for the reciprocal of the output's scale
  const KernelTable& chosen = table == nullptr ? kernels() : *table;
  const float inverse = y.u8 == nullptr ? 1.0f : 1.0f / y.scale.scale;
  const bool bytes = a.u8 != nullptr && b.u8 != nullptr && y.u8 != nullptr;
  const double bound = 255.0 * a.scale.scale + 255.0 * b.scale.scale;
  const bool straight = bytes && is_clamp(activation) && fits_registers(bound, y.scale.scale);
  const int team = count >= kWorthElements ? usable_threads(threads) : 1;
  parallel(team, [&](int thread, int of) {
    const Range chunks = part_of(ceil_div(count, kChunk), thread, of);
    const Range mine{chunks.begin * kChunk, std::min(chunks.end * kChunk, count)};
    if (straight) {
      const ByteClamp clamp = clamp_of(activation, y.scale);
      if (mine.begin < mine.end) {
        chosen.add_u8({a.u8 + mine.begin, b.u8 + mine.begin, mine.end - mine.begin, a.scale.scale,
                       b.scale.scale, a.scale.zero_point, b.scale.zero_point, inverse,
                       y.scale.zero_point, clamp.low, clamp.high, y.u8 + mine.begin});
      }
      return;
    }
    alignas(64) float left[kChunk], right[kChunk], sums[kChunk];
    for (std::int64_t at = mine.begin; at < mine.end; at += kChunk) {
      const std::int64_t n = std::min(kChunk, mine.end - at);
      float* to = y.f32 != nullptr ? y.f32 + at : sums;
      chosen.epilogue_sums({as_f32(chosen, a, at, n, left), n, 1, n, nullptr, activation, to, n,
                            nullptr, as_f32(chosen, b, at, n, right), n});
      if (y.u8 == nullptr) continue;
      chosen.quantize_static_u8(sums, n, inverse, y.scale.zero_point, y.u8 + at);
    }
  });
}

}  // namespace skd
