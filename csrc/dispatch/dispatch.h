// Which kernel table runs. Compiled for the baseline CPU; the best table that the CPU can run is
// chosen at first use, SPARSEKD_ISA or set_isa() force another.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace skd {

// The table in use. The first call reads SPARSEKD_ISA; throws when that names an unknown or
// unavailable instruction set, listing the choices.
const KernelTable& kernels();

std::string isa();                          // name of the table in use
std::vector<std::string> known_isas();      // all that were compiled in, best first
std::vector<std::string> available_isas();  // those that this CPU can run, best first

// Force one by name; "" goes back to the automatic choice. Throws on an unknown or unavailable one.
void set_isa(const std::string& name);

// The table of one instruction set that this CPU can run; throws otherwise.
const KernelTable& table(const std::string& name);

// CPU features that matter here, by their usual names ("avx2", "avx512_vbmi", ...).
std::vector<std::string> cpu_features();

}  // namespace skd
