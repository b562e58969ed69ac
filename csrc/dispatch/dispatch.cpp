#include "dispatch/dispatch.h"

#include <atomic>
#include <cstdlib>
#include <utility>

#include "core/check.h"
#include "dispatch/cpu_features.h"

namespace skd {
namespace {

struct Candidate {
  const KernelTable* table;
  bool (*runs_here)(const CpuFeatures&);
};

#if defined(SKD_X86)
bool has_avx2(const CpuFeatures& f) { return f.avx2 && f.fma && f.f16c; }
bool has_avx512(const CpuFeatures& f) {
  return has_avx2(f) && f.avx512f && f.avx512bw && f.avx512vl && f.avx512dq;
}
bool has_vnni(const CpuFeatures& f) { return has_avx512(f) && f.avx512_vnni; }
bool has_vbmi(const CpuFeatures& f) { return has_vnni(f) && f.avx512_vbmi; }
bool has_bf16(const CpuFeatures& f) { return has_vbmi(f) && f.avx512_bf16; }

KernelTable with_bf16(KernelTable table, const Bf16Kernels& kernels) {
  table.name = "avx512_bf16";
  table.linear_windowed_bf16 = kernels.linear_windowed_bf16;
  table.to_bf16 = kernels.to_bf16;
  return table;
}
const KernelTable kAvx512Bf16Table = with_bf16(kAvx512VbmiTable, kAvx512Bf16Kernels);
#endif
bool always(const CpuFeatures&) { return true; }

// Best first. avx512_vbmi asks for VNNI and VBMI alone, so that Ice Lake qualifies; avx512_bf16 is
// the same table with other bf16 entries.
constexpr Candidate kCandidates[] = {
#if defined(SKD_X86)
    {&kAvx512Bf16Table, has_bf16}, {&kAvx512VbmiTable, has_vbmi}, {&kAvx512VnniTable, has_vnni},
    {&kAvx512Table, has_avx512},   {&kAvx2Table, has_avx2},
#endif
    {&kScalarTable, always},
};

std::atomic<const KernelTable*> in_use{nullptr};

std::string join(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

const KernelTable& best() {
  for (const Candidate& candidate : kCandidates) {
    if (candidate.runs_here(detect_cpu())) return *candidate.table;
  }
  return kScalarTable;
}

const KernelTable& first_choice() {
  const char* forced = std::getenv("SPARSEKD_ISA");
  return forced == nullptr || *forced == '\0' ? best() : table(forced);
}

}  // namespace

const KernelTable& kernels() {
  const KernelTable* current = in_use.load(std::memory_order_acquire);
  if (current == nullptr) {
    current = &first_choice();
    in_use.store(current, std::memory_order_release);
  }
  return *current;
}

std::string isa() { return kernels().name; }

std::vector<std::string> known_isas() {
  std::vector<std::string> names;
  for (const Candidate& candidate : kCandidates) names.emplace_back(candidate.table->name);
  return names;
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Candidate& candidate : kCandidates) {
    if (candidate.runs_here(detect_cpu())) names.emplace_back(candidate.table->name);
  }
  return names;
}

const KernelTable& table(const std::string& name) {
  for (const Candidate& candidate : kCandidates) {
    if (name != candidate.table->name) continue;
    require(candidate.runs_here(detect_cpu()), "instruction set '", name,
            "' is not available on this CPU; available: ", join(available_isas()));
    return *candidate.table;
  }
  throw Error("unknown instruction set '" + name + "'; known: " + join(known_isas()));
}

void set_isa(const std::string& name) {
  in_use.store(name.empty() ? &first_choice() : &table(name), std::memory_order_release);
}

std::vector<std::string> cpu_features() {
  const CpuFeatures& f = detect_cpu();
  const std::pair<const char*, bool> named[] = {
      {"avx2", f.avx2},
      {"fma", f.fma},
      {"f16c", f.f16c},
      {"avx512f", f.avx512f},
      {"avx512bw", f.avx512bw},
      {"avx512vl", f.avx512vl},
      {"avx512dq", f.avx512dq},
      {"avx512_vnni", f.avx512_vnni},
      {"avx512_vbmi", f.avx512_vbmi},
      {"avx512_vbmi2", f.avx512_vbmi2},
      {"avx512_bf16", f.avx512_bf16},
      {"avx_vnni", f.avx_vnni},
      {"amx_int8", f.amx_int8},
  };
  std::vector<std::string> names;
  for (const auto& [name, present] : named) {
    if (present) names.emplace_back(name);
  }
  return names;
}

}  // namespace skd
