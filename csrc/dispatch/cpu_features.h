// What this CPU and operating system can run. Compiled for the baseline CPU.
#pragma once

namespace skd {

struct CpuFeatures {
  bool avx2 = false;  // with FMA, F16C and the OS saving ymm registers
  bool fma = false, f16c = false;
  bool avx512f = false, avx512bw = false, avx512vl = false, avx512dq = false;
  bool avx512_vnni = false, avx512_vbmi = false, avx512_vbmi2 = false, avx512_bf16 = false;
  bool avx_vnni = false, amx_int8 = false;
};

const CpuFeatures& detect_cpu();

}  // namespace skd
