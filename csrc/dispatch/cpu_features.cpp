#include "dispatch/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace skd {
namespace {

#if defined(__x86_64__)

// XCR0 says which registers the operating system saves on a task switch: bits 1-2 xmm and ymm,
// bits 5-7 the mask registers and zmm (Intel SDM vol. 1, 13.3).
unsigned long long saved_registers() {
  unsigned low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<unsigned long long>(high) << 32 | low;
}

CpuFeatures detect() {
  CpuFeatures f;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return f;
  const bool osxsave = (c >> 27 & 1) != 0;
  if (!osxsave) return f;
  const unsigned long long saved = saved_registers();
  const bool ymm = (saved & 0x6) == 0x6, zmm = (saved & 0xE6) == 0xE6;
  f.fma = ymm && (c >> 12 & 1) != 0;
  f.f16c = ymm && (c >> 29 & 1) != 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return f;
  f.avx2 = ymm && (b >> 5 & 1) != 0;
  f.avx512f = zmm && (b >> 16 & 1) != 0;
  f.avx512dq = zmm && (b >> 17 & 1) != 0;
  f.avx512bw = zmm && (b >> 30 & 1) != 0;
  f.avx512vl = zmm && (b >> 31 & 1) != 0;
  f.avx512_vbmi = zmm && (c >> 1 & 1) != 0;
  f.avx512_vbmi2 = zmm && (c >> 6 & 1) != 0;
  f.avx512_vnni = zmm && (c >> 11 & 1) != 0;
  f.amx_int8 = (d >> 25 & 1) != 0;
  if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0) {
    f.avx_vnni = ymm && (a >> 4 & 1) != 0;
    f.avx512_bf16 = zmm && (a >> 5 & 1) != 0;
  }
  return f;
}

#else

CpuFeatures detect() { return {}; }

#endif

}  // namespace

const CpuFeatures& detect_cpu() {
  static const CpuFeatures features = detect();
  return features;
}

}  // namespace skd
