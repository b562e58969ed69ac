#include "check/mutants.h"

#include "core/check.h"

namespace skd::check {

KernelTable base;

std::vector<Mutant> all_mutants() {
  std::vector<Mutant> mutants = s8_mutants();
  for (const auto* more : {&float_mutants(), &image_mutants()}) {
    mutants.insert(mutants.end(), more->begin(), more->end());
  }
  return mutants;
}

KernelTable mutate(const KernelTable& table, const std::string& name) {
  std::string known;
  for (const Mutant& mutant : all_mutants()) {
    known += (known.empty() ? "" : ", ") + std::string(mutant.name);
    if (name != mutant.name) continue;
    base = table;
    KernelTable mutated = table;
    mutant.apply(mutated);
    return mutated;
  }
  throw Error("unknown mutant '" + name + "'; known: " + known);
}

}  // namespace skd::check
