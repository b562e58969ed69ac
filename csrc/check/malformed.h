// A catalogue of damage to stored weights, each kind refused by from_parts().
#pragma once

#include <cstdint>
#include <vector>

#include "check/random.h"
#include "formats/windowed_s8.h"

namespace skd::check {

// The stored arrays of a windowed weight, and the sizes that a file claims for them, free to
// change.
struct StoredWindowed {
  std::vector<std::int8_t> values;
  std::vector<std::uint8_t> positions, steps;
  std::vector<std::int64_t> step_ptr;
  std::int64_t total_steps, slices, windows, outputs, inputs, groups;
  int taps;

  SlicedOutputs layout() const { return {outputs, groups}; }

  explicit StoredWindowed(const WindowedS8Weight& weight);
};

struct WindowedDamage {
  const char* name;
  // Damages the arrays; false when this weight has no place for it.
  bool (*apply)(StoredWindowed& stored, Random& random);
};
const std::vector<WindowedDamage>& windowed_damages();

struct StoredDense {
  std::vector<std::int8_t> panels;
  std::int64_t size, outputs, inputs;
  int taps;
  std::int64_t groups;

  SlicedOutputs layout() const { return {outputs, groups}; }
};
struct DenseDamage {
  const char* name;
  bool (*apply)(StoredDense& stored, Random& random);
};
const std::vector<DenseDamage>& dense_damages();

}  // namespace skd::check
