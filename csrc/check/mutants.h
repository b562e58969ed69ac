// Kernel tables with one deliberate mistake, the kind that is easily made. The engine of checks has
// to find each of them; a check that no mutant fails tests nothing.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace skd::check {

// A copy of `base` with the mistake `name`. Throws skd::Error on an unknown name, listing the
// choices. One mutant at a time: its functions remember `base`.
KernelTable mutate(const KernelTable& base, const std::string& name);

std::vector<std::string> mutant_names();

}  // namespace skd::check
