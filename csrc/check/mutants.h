// Kernel tables with one deliberate mistake, the kind that is easily made. The engine of checks has
// to find each of them; a check that no mutant fails tests nothing.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace skd::check {

// A copy of `table` with the mistake `name`. Throws skd::Error on an unknown name, listing the
// choices. One mutant at a time: its functions call `base`.
KernelTable mutate(const KernelTable& table, const std::string& name);

struct Mutant {
  const char* name;
  void (*apply)(KernelTable& table);
};
std::vector<Mutant> all_mutants();
const std::vector<Mutant>& s8_mutants();     // mutants_s8.cpp
const std::vector<Mutant>& float_mutants();  // mutants_float.cpp
const std::vector<Mutant>& image_mutants();  // mutants_images.cpp

extern KernelTable base;  // what a mutant calls for everything but its mistake

}  // namespace skd::check
