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
  std::vector<std::int32_t> order;  // empty: none
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

// Damage to an order, for every windowed format; false when there is no place for it.
bool output_twice(std::vector<std::int32_t>& order, Random& random);
bool no_such_output(std::vector<std::int32_t>& order, Random& random);
bool across_blocks(std::vector<std::int32_t>& order, const SlicedOutputs& layout);
bool moves_nothing(std::vector<std::int32_t>& order, std::int64_t outputs);

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
