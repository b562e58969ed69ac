#include "check/malformed.h"

#include <cstddef>
#include <numeric>
#include <utility>

namespace skd::check {
namespace {

constexpr std::int64_t kEntries = kLanes * kDot;  // of one step

std::size_t random_place(const std::vector<std::int32_t>& order, Random& random) {
  return static_cast<std::size_t>(random.in(0, static_cast<std::int64_t>(order.size()) - 1));
}

std::int64_t count_of(const std::vector<std::uint8_t>& v) {
  return static_cast<std::int64_t>(v.size());
}

// A random one of the entries for which `wanted` holds, or -1.
template <class Wanted>
std::int64_t find_entry(const StoredWindowed& s, Random& random, const Wanted& wanted) {
  std::vector<std::int64_t> found;
  for (std::int64_t i = 0; i < count_of(s.positions); ++i) {
    if (wanted(i)) found.push_back(i);
  }
  if (found.empty()) return -1;
  return found[static_cast<std::size_t>(random.in(0, static_cast<std::int64_t>(found.size()) - 1))];
}

// The entry after i in the same lane of the same step, or -1.
std::int64_t neighbour(std::int64_t i) { return i % kDot == kDot - 1 ? -1 : i + 1; }
bool kept(const StoredWindowed& s, std::int64_t i) {
  return i >= 0 && s.values[static_cast<std::size_t>(i)] != 0;
}

bool set_position(StoredWindowed& s, std::int64_t entry, std::int64_t position) {
  if (entry < 0) return false;
  s.positions[static_cast<std::size_t>(entry)] = static_cast<std::uint8_t>(position);
  return true;
}
bool set_value(StoredWindowed& s, std::int64_t entry, int value) {
  if (entry < 0) return false;
  s.values[static_cast<std::size_t>(entry)] = static_cast<std::int8_t>(value);
  return true;
}
std::int64_t any_kept(const StoredWindowed& s, Random& random) {
  return find_entry(s, random, [&](std::int64_t i) { return kept(s, i); });
}
std::int64_t any_pad(const StoredWindowed& s, Random& random) {
  return find_entry(s, random, [&](std::int64_t i) { return !kept(s, i); });
}
std::int64_t kept_before_kept(const StoredWindowed& s, Random& random) {
  return find_entry(s, random, [&](std::int64_t i) { return kept(s, i) && kept(s, neighbour(i)); });
}

bool pointer_starts_elsewhere(StoredWindowed& s, Random& random) {
  s.step_ptr[0] = random.pick<std::int64_t>({-1, 1, INT64_MIN, INT64_MAX});
  return true;
}
bool pointer_wrong(StoredWindowed& s, Random& random) {
  if (s.slices == 0) return false;
  std::int64_t& entry = s.step_ptr[static_cast<std::size_t>(random.in(1, s.slices))];
  const std::int64_t before = entry;
  entry = random.pick<std::int64_t>({entry - 1, entry + 1, -1, INT64_MIN, INT64_MAX, 1LL << 32});
  return entry != before;
}
bool count_wrong(StoredWindowed& s, Random& random) {
  if (s.steps.empty()) return false;
  std::uint8_t& count = s.steps[static_cast<std::size_t>(random.in(0, count_of(s.steps) - 1))];
  const std::uint8_t before = count;
  count = static_cast<std::uint8_t>(random.pick<int>({count + 1, count - 1, 17, 255}));
  return count != before;
}
bool fewer_steps(StoredWindowed& s, Random& random) {
  if (s.total_steps == 0) return false;
  s.total_steps -= random.in(1, s.total_steps);
  return true;
}
bool more_steps(StoredWindowed& s, Random&) {
  ++s.total_steps;
  s.values.resize(s.values.size() + kEntries);
  s.positions.resize(s.positions.size() + kEntries);
  return true;
}
bool negative_steps(StoredWindowed& s, Random&) {
  s.total_steps = -1;
  return true;
}
bool empty_step(StoredWindowed& s, Random& random) {  // a whole step of padding, well accounted for
  if (s.steps.empty() || s.steps.back() >= kWindow / kDot) return false;
  more_steps(s, random);
  ++s.steps.back();
  ++s.step_ptr.back();
  return true;
}
bool other_slices(StoredWindowed& s, Random& random) {
  s.slices += random.pick({-1, 1});
  return true;
}
bool other_windows(StoredWindowed& s, Random& random) {
  s.windows += random.pick({-1, 1});
  return true;
}
bool negative_sizes(StoredWindowed& s, Random& random) {
  std::int64_t& size = random.percent(50) ? s.outputs : s.inputs;
  size = random.pick<std::int64_t>({-1, -64, INT64_MIN});
  return true;
}
bool no_taps(StoredWindowed& s, Random& random) {
  s.taps = random.pick({0, -1});
  return true;
}
bool enormous(StoredWindowed& s, Random& random) {
  s.outputs = random.pick({INT64_MAX, std::int64_t{1} << 60});
  s.inputs = random.pick({INT64_MAX, std::int64_t{1} << 40});
  return true;
}
bool position_outside(StoredWindowed& s, Random& random) {
  return set_position(s, any_kept(s, random), random.pick({64, 65, 128, 255}));
}
bool position_past_short_window(StoredWindowed& s, Random& random) {
  const std::int64_t length = s.inputs % kWindow;
  if (length == 0 || s.windows != s.taps) return false;  // one window a tap, and it is short
  const auto last_of_lane = [&](std::int64_t i) {
    return kept(s, i) && !kept(s, neighbour(i)) && i % kDot != kDot - 1;
  };
  return set_position(s, find_entry(s, random, last_of_lane), random.in(length, kWindow - 1));
}
bool position_repeated(StoredWindowed& s, Random& random) {
  const std::int64_t first = kept_before_kept(s, random);
  return first >= 0 && set_position(s, first + 1, s.positions[static_cast<std::size_t>(first)]);
}
bool positions_swapped(StoredWindowed& s, Random& random) {
  const std::int64_t first = kept_before_kept(s, random);
  if (first < 0) return false;
  std::uint8_t* pair = s.positions.data() + first;
  const std::uint8_t low = pair[0];
  pair[0] = pair[1];
  pair[1] = low;
  return true;
}
bool value_minus_128(StoredWindowed& s, Random& random) {
  return set_value(s, any_kept(s, random), -128);
}
bool value_zero_inside(StoredWindowed& s, Random& random) {
  const std::int64_t first = kept_before_kept(s, random);
  return set_value(s, first, 0) && (random.percent(50) || set_position(s, first, 0));
}
bool pad_with_position(StoredWindowed& s, Random& random) {
  return set_position(s, any_pad(s, random), random.pick({1, 5, 63, 64, 255}));
}
bool weight_after_pad(StoredWindowed& s, Random& random) {
  const auto second_pad = [&](std::int64_t i) {
    return i % kDot != 0 && !kept(s, i) && !kept(s, i - 1);
  };
  const std::int64_t entry = find_entry(s, random, second_pad);
  return set_value(s, entry, 5) && set_position(s, entry, 0);
}
// The last slice of some group, or -1: where lanes may hold no output.
template <class Stored>
std::int64_t last_slice_of_a_group(const Stored& s, Random& random) {
  if (s.outputs == 0) return -1;
  return random.in(1, s.groups) * s.layout().slices_per_group() - 1;
}
bool weight_of_no_output(StoredWindowed& s, Random& random) {
  const std::int64_t slice = last_slice_of_a_group(s, random);
  if (slice < 0) return false;
  const std::int64_t lanes = s.layout().lanes(slice);
  const std::int64_t first = s.step_ptr[static_cast<std::size_t>(slice)] * kEntries;
  const std::int64_t last = s.step_ptr[static_cast<std::size_t>(slice + 1)] * kEntries;
  const auto unused = [&](std::int64_t i) {
    return i >= first && i < last && i % kEntries / kDot >= lanes && i % kDot == 0;
  };
  return set_value(s, find_entry(s, random, unused), 1);
}
bool other_groups(StoredWindowed& s, Random& random) {
  s.groups = random.pick<std::int64_t>({0, -1, s.outputs + 1, INT64_MIN});
  return s.outputs > 0 || s.groups <= 0;
}

bool panel_size(StoredDense& s, Random& random) {
  s.size += random.pick({-1, 1});
  s.panels.resize(static_cast<std::size_t>(s.size < 0 ? 0 : s.size));
  return true;
}
bool panel_minus_128(StoredDense& s, Random& random) {
  if (s.size == 0) return false;
  s.panels[static_cast<std::size_t>(random.in(0, s.size - 1))] = -128;
  return true;
}
bool panel_unused_output(StoredDense& s, Random& random) {
  const std::int64_t slice = last_slice_of_a_group(s, random);
  if (slice < 0 || s.size == 0) return false;
  const std::int64_t lanes = s.layout().lanes(slice),
                     quads = s.size / kEntries / s.layout().slices();
  if (lanes == kLanes) return false;
  const std::int64_t quad = slice * quads + random.in(0, quads - 1);
  const std::int64_t entry = random.in(lanes * kDot, kLanes * kDot - 1);
  s.panels[static_cast<std::size_t>(quad * kEntries + entry)] = 1;
  return true;
}
bool dense_other_groups(StoredDense& s, Random& random) {
  s.groups = random.pick<std::int64_t>({0, -1, s.outputs + 1, INT64_MIN});
  return s.outputs > 0 || s.groups <= 0;
}
bool panel_unused_input(StoredDense& s, Random& random) {
  if (s.inputs % kDot == 0 || s.size == 0) return false;
  const std::int64_t quads = s.size / kEntries, per_tap = (s.inputs + kDot - 1) / kDot;
  const std::int64_t last = per_tap * random.in(1, quads / per_tap) - 1;  // last quad of some tap
  s.panels[static_cast<std::size_t>(last * kEntries + kDot * random.in(0, 15) + kDot - 1)] = 7;
  return true;
}
bool dense_negative(StoredDense& s, Random& random) {
  (random.percent(50) ? s.outputs : s.inputs) = random.pick<std::int64_t>({-1, -16, INT64_MIN});
  return true;
}
bool dense_no_taps(StoredDense& s, Random& random) {
  s.taps = random.pick({0, -1});
  return true;
}
bool dense_enormous(StoredDense& s, Random& random) {
  s.outputs = random.pick({INT64_MAX, std::int64_t{1} << 60});
  s.inputs = random.pick({INT64_MAX, std::int64_t{1} << 40});
  return true;
}

}  // namespace

bool output_twice(std::vector<std::int32_t>& order, Random& random) {
  if (order.size() < 2) return false;
  const std::size_t place = random_place(order, random), other = place == 0 ? 1 : place - 1;
  order[place] = order[other];
  return true;
}
bool no_such_output(std::vector<std::int32_t>& order, Random& random) {
  if (order.empty()) return false;
  const auto outputs = static_cast<std::int32_t>(order.size());
  order[random_place(order, random)] = random.pick({-1, outputs, INT32_MIN, INT32_MAX});
  return true;
}
bool across_blocks(std::vector<std::int32_t>& order, const SlicedOutputs& layout) {
  if (order.empty() || layout.blocks() < 2) return false;
  std::swap(order.front(), order.back());
  return true;
}
bool moves_nothing(std::vector<std::int32_t>& order, std::int64_t outputs) {
  if (outputs <= 0) return false;
  order.resize(static_cast<std::size_t>(outputs));
  std::iota(order.begin(), order.end(), 0);
  return true;
}

StoredWindowed::StoredWindowed(const WindowedS8Weight& weight) {
  const WindowedS8Parts parts = weight.parts();
  total_steps = parts.total_steps;
  slices = parts.slices;
  windows = parts.windows;
  outputs = weight.outputs();
  inputs = weight.inputs();
  taps = weight.taps();
  groups = weight.layout().groups;
  values.assign(parts.values, parts.values + total_steps * kEntries);
  positions.assign(parts.positions, parts.positions + total_steps * kEntries);
  steps.assign(parts.steps, parts.steps + slices * windows);
  step_ptr.assign(parts.step_ptr, parts.step_ptr + slices + 1);
  if (parts.order != nullptr) order.assign(parts.order, parts.order + outputs);
}

const std::vector<WindowedDamage>& windowed_damages() {
  using S = StoredWindowed;
  static const std::vector<WindowedDamage> damages = {
      {"step_ptr does not start at 0", pointer_starts_elsewhere},
      {"step_ptr is wrong", pointer_wrong},
      {"a step count is wrong", count_wrong},
      {"steps are missing", fewer_steps},
      {"one step too many", more_steps},
      {"a negative number of steps", negative_steps},
      {"a step of padding", empty_step},
      {"another number of slices", other_slices},
      {"another number of windows", other_windows},
      {"a negative size", negative_sizes},
      {"no taps", no_taps},
      {"enormous sizes", enormous},
      {"a position of 64 or more", position_outside},
      {"a position past a short window", position_past_short_window},
      {"a position twice", position_repeated},
      {"positions out of order", positions_swapped},
      {"a value of -128", value_minus_128},
      {"a zero among the values", value_zero_inside},
      {"padding with a position", pad_with_position},
      {"a weight after padding", weight_after_pad},
      {"a weight of no output", weight_of_no_output},
      {"groups that do not divide", other_groups},
      {"an order with an output twice", [](S& s, Random& r) { return output_twice(s.order, r); }},
      {"an order with no such output", [](S& s, Random& r) { return no_such_output(s.order, r); }},
      {"an order across blocks", [](S& s, Random&) { return across_blocks(s.order, s.layout()); }},
      {"an order that moves nothing",
       [](S& s, Random&) { return moves_nothing(s.order, s.outputs); }},
  };
  return damages;
}

const std::vector<DenseDamage>& dense_damages() {
  static const std::vector<DenseDamage> damages = {
      {"another size", panel_size},
      {"a value of -128", panel_minus_128},
      {"a weight of no output", panel_unused_output},
      {"groups that do not divide", dense_other_groups},
      {"a weight of no input", panel_unused_input},
      {"a negative size", dense_negative},
      {"no taps", dense_no_taps},
      {"enormous sizes", dense_enormous},
  };
  return damages;
}

}  // namespace skd::check
