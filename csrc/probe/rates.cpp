// The loops are inline assembly, so that no compiler reorders, spills or copies anything, and no
// file but kernels/isa needs instruction set flags: the attribute `target` lets the assembler take
// the instructions, and detect_cpu() decides whether they are run.
#include "probe/rates.h"

#include <string>

#include "core/check.h"
#include "core/threads.h"
#include "dispatch/cpu_features.h"

namespace skd {
namespace {

#if defined(SKD_X86)

// clang-format off
#define SKD_CLEAR(n) "vpxor %%xmm" #n ", %%xmm" #n ", %%xmm" #n "\n\t"
#define SKD_CLEAR_16                                                                              \
  SKD_CLEAR(0) SKD_CLEAR(1) SKD_CLEAR(2) SKD_CLEAR(3) SKD_CLEAR(4) SKD_CLEAR(5) SKD_CLEAR(6)      \
  SKD_CLEAR(7) SKD_CLEAR(8) SKD_CLEAR(9) SKD_CLEAR(10) SKD_CLEAR(11) SKD_CLEAR(12) SKD_CLEAR(13)  \
  SKD_CLEAR(14) SKD_CLEAR(15)
#define SKD_LOW_REGISTERS                                                                         \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",        \
  "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#define SKD_ALL_REGISTERS                                                                         \
  SKD_LOW_REGISTERS, "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23",      \
  "xmm24", "xmm25", "xmm26", "xmm27", "xmm30", "xmm31"

// 12 chains: a latency of 5 cycles at two a cycle needs 10. Operands are zero: nothing is denormal.
#define SKD_EACH_OF_12(step)                                                                      \
  step(0) step(1) step(2) step(3) step(4) step(5) step(6) step(7) step(8) step(9) step(10) step(11)
// Pairs in blocks of six permutes and six dots: of the orders tried, the one that fills the three
// pipes that both share best (1.36 pairs a cycle on Zen 5; strictly alternating ones 1.24).
#define SKD_PAIRS_OF_12(permute, dot)                                                             \
  permute(16) permute(17) permute(18) permute(19) permute(20) permute(21)                         \
  dot(0, 16) dot(1, 17) dot(2, 18) dot(3, 19) dot(4, 20) dot(5, 21)                               \
  permute(22) permute(23) permute(24) permute(25) permute(26) permute(27)                         \
  dot(6, 22) dot(7, 23) dot(8, 24) dot(9, 25) dot(10, 26) dot(11, 27)

#define SKD_LOOP(body, ...)                                                                       \
  asm volatile(SKD_CLEAR_16                                                                       \
               "1:\n\t" body body "dec %0\n\tjnz 1b\n\tvzeroupper"                                \
               : "+r"(turns) : : "cc", __VA_ARGS__)
#define SKD_LOOP_512(body)                                                                        \
  asm volatile(SKD_CLEAR_16                                                                       \
               "vpxord %%zmm30, %%zmm30, %%zmm30\n\tvpxord %%zmm31, %%zmm31, %%zmm31\n"           \
               "1:\n\t" body body "dec %0\n\tjnz 1b\n\tvzeroupper"                                \
               : "+r"(turns) : : "cc", SKD_ALL_REGISTERS)
// clang-format on

constexpr std::int64_t kSteps = 2 * 12;  // instructions or pairs in a turn

#define SKD_DOT(acc) "vpdpbusd %%zmm30, %%zmm31, %%zmm" #acc "\n\t"
__attribute__((target("avx512f,avx512vnni"))) void dot_512(std::int64_t turns) {
  SKD_LOOP_512(SKD_EACH_OF_12(SKD_DOT));
}

#define SKD_PERMUTE_BYTES(to) "vpermb %%zmm31, %%zmm30, %%zmm" #to "\n\t"
#define SKD_DOT_OF(acc, from) "vpdpbusd %%zmm30, %%zmm" #from ", %%zmm" #acc "\n\t"
__attribute__((target("avx512f,avx512vbmi,avx512vnni"))) void pairs_s8(std::int64_t turns) {
  SKD_LOOP_512(SKD_PAIRS_OF_12(SKD_PERMUTE_BYTES, SKD_DOT_OF));
}

#define SKD_FMA(acc) "vfmadd231ps %%zmm30, %%zmm31, %%zmm" #acc "\n\t"
__attribute__((target("avx512f"))) void fma_512(std::int64_t turns) {
  SKD_LOOP_512(SKD_EACH_OF_12(SKD_FMA));
}

#define SKD_PERMUTE_FLOATS(to) "vpermps %%zmm31, %%zmm30, %%zmm" #to "\n\t"
#define SKD_FMA_OF(acc, from) "vfmadd231ps %%zmm30, %%zmm" #from ", %%zmm" #acc "\n\t"
__attribute__((target("avx512f"))) void pairs_f32(std::int64_t turns) {
  SKD_LOOP_512(SKD_PAIRS_OF_12(SKD_PERMUTE_FLOATS, SKD_FMA_OF));
}

#define SKD_FMA_256(acc) "vfmadd231ps %%ymm14, %%ymm15, %%ymm" #acc "\n\t"
__attribute__((target("avx2,fma"))) void fma_256(std::int64_t turns) {
  SKD_LOOP(SKD_EACH_OF_12(SKD_FMA_256), SKD_LOW_REGISTERS);
}

// 512 bytes a turn of the inner loop.
__attribute__((target("avx512f"))) void read_512(const char* data, std::int64_t blocks) {
  asm volatile(
      "1:\n\t"
      "vmovdqa64 (%0), %%zmm0\n\tvmovdqa64 64(%0), %%zmm1\n\t"
      "vmovdqa64 128(%0), %%zmm2\n\tvmovdqa64 192(%0), %%zmm3\n\t"
      "vmovdqa64 256(%0), %%zmm4\n\tvmovdqa64 320(%0), %%zmm5\n\t"
      "vmovdqa64 384(%0), %%zmm6\n\tvmovdqa64 448(%0), %%zmm7\n\t"
      "add $512, %0\n\tdec %1\n\tjnz 1b\n\tvzeroupper"
      : "+r"(data), "+r"(blocks)
      :
      : "cc", "memory", SKD_LOW_REGISTERS);
}

#endif

// Without wider registers: sums that the compiler can not leave out.
void read_plain(const char* data, std::int64_t blocks) {
  const auto* words = reinterpret_cast<const std::uint64_t*>(data);
  std::uint64_t sums[8] = {};
  for (std::int64_t i = 0; i < blocks * 64; i += 8) {
    for (int j = 0; j < 8; ++j) sums[j] += words[i + j];
  }
  for (const std::uint64_t sum : sums) asm volatile("" : : "r"(sum));
}

constexpr std::int64_t kBlock = 512;  // bytes

}  // namespace

std::vector<RateProbe> rate_probes() {
  std::vector<RateProbe> probes;
#if defined(SKD_X86)
  const CpuFeatures& cpu = detect_cpu();
  const bool vnni = cpu.avx512f && cpu.avx512_vnni;
  if (vnni) probes.push_back({"vpdpbusd", 64 * kSteps, dot_512});
  if (vnni && cpu.avx512_vbmi) probes.push_back({"vpermb+dot", 64 * kSteps, pairs_s8});
  if (cpu.avx512f) {
    probes.push_back({"fma", 16 * kSteps, fma_512});
    probes.push_back({"vpermps+fma", 16 * kSteps, pairs_f32});
  } else if (cpu.avx2 && cpu.fma) {
    probes.push_back({"fma", 8 * kSteps, fma_256});
  }
#endif
  return probes;
}

std::int64_t run_rate_probe(const std::string& name, std::int64_t turns, int threads) {
  require(turns >= 1, "turns: ", turns, ", expected at least 1");
  std::string known;
  for (const RateProbe& probe : rate_probes()) {
    if (name == probe.name) {
      const int count = usable_threads(threads);
      parallel(count, [&](int, int) { probe.run(turns); });
      return probe.work * turns * count;
    }
    known += (known.empty() ? "" : ", ") + std::string(probe.name);
  }
  throw Error("no rate '" + name + "' on this CPU; there are: " + known);
}

std::int64_t read_memory(const void* data, std::int64_t bytes, std::int64_t turns, int threads) {
  require(turns >= 1, "turns: ", turns, ", expected at least 1");
  require(reinterpret_cast<std::uintptr_t>(data) % 64 == 0, "data: not aligned to 64 bytes");
  const int count = usable_threads(threads);
  const std::int64_t blocks = bytes / kBlock;
  require(blocks >= count, "bytes: ", bytes, ", expected at least ", kBlock * count);
  auto* read = read_plain;
#if defined(SKD_X86)
  if (detect_cpu().avx512f) read = read_512;
#endif
  parallel(count, [&](int thread, int total) {
    const Range part = part_of(blocks, thread, total);
    const char* from = static_cast<const char*>(data) + part.begin * kBlock;
    for (std::int64_t turn = 0; turn < turns; ++turn) read(from, part.end - part.begin);
  });
  return blocks * kBlock * turns;
}

}  // namespace skd
