#include "formats/group_outputs.h"

#include <algorithm>
#include <array>
#include <functional>
#include <numeric>

namespace skd {
namespace {

// Pairs that are tried in a block; twice as many save some 0.3 % of the steps of a 90 % mask more.
constexpr std::int64_t kMostDraws = 1 << 16;
constexpr std::int64_t kComparisons = 1 << 21;  // of windows, for two outputs each

constexpr int kSlices = kOrderBlock / kLanes;

// The up to 64 outputs of a block and the slices that they are in. Outputs are numbered within the
// block.
class Block {
 public:
  Block(const std::uint8_t* needs, std::int64_t windows, int outputs)
      : needs_(needs),
        windows_(windows),
        outputs_(outputs),
        most_(bytes(kSlices)),
        without_(bytes(kOrderBlock)) {
    std::iota(place_.begin(), place_.end(), 0);
    update_all();
  }

  std::int64_t steps() const { return std::accumulate(steps_.begin(), steps_.end(), 0L); }
  // The output in a place of the block.
  int output_in(int place) const { return place_[index(place)]; }

  void fill_greedily() {
    std::array<int, kOrderBlock> total{};
    for (int o = 0; o < outputs_; ++o) {
      total[index(o)] = std::accumulate(needs_of(o), needs_of(o) + windows_, 0);
    }
    for (int place = 0; place < outputs_; ++place) {
      std::uint8_t* most = most_of(place / kLanes);
      if (place % kLanes == 0) std::fill_n(most, windows_, std::uint8_t{0});
      const auto worse = [&](int a, int b) {  // the place to look at is b's, not a's
        if (place % kLanes == 0) return total[index(a)] < total[index(b)];
        const std::int64_t with_a = sum_of_larger(most, needs_of(a));
        const std::int64_t with_b = sum_of_larger(most, needs_of(b));
        return with_a != with_b ? with_a > with_b : total[index(a)] < total[index(b)];
      };
      int* first = place_.data() + place;
      std::swap(*first, *std::max_element(first, place_.data() + outputs_, worse));
      const std::uint8_t* added = needs_of(*first);
      for (std::int64_t w = 0; w < windows_; ++w) most[w] = std::max(most[w], added[w]);
    }
    update_all();
  }

  // Swaps two outputs of different slices wherever that adds no step. Swaps that save none lead
  // from one arrangement to others as good, from which some do.
  void swap_at_random() {
    if (outputs_ <= kLanes) return;
    const std::int64_t fewest = fewest_steps();
    std::int64_t now = steps();
    std::uint32_t state = 1;  // the same draws for every block
    const std::int64_t draws =
        std::min(kMostDraws, kComparisons / std::max<std::int64_t>(1, windows_));
    for (std::int64_t i = 0; i < draws && now > fewest; ++i) {
      const int a = draw(state), b = draw(state);
      if (a / kLanes != b / kLanes) now -= swap_if_no_worse(a, b);
    }
  }

 private:
  static std::size_t index(int i) { return static_cast<std::size_t>(i); }
  std::vector<std::uint8_t> bytes(int rows) const {
    return std::vector<std::uint8_t>(index(rows) * static_cast<std::size_t>(windows_));
  }
  const std::uint8_t* needs_of(int output) const { return needs_ + output * windows_; }
  std::uint8_t* most_of(int slice) { return most_.data() + slice * windows_; }
  // Most of the needs in the place's slice but for its own.
  std::uint8_t* without(int place) { return without_.data() + place * windows_; }
  int end_of(int slice) const { return std::min((slice + 1) * kLanes, outputs_); }

  std::int64_t sum_of_larger(const std::uint8_t* a, const std::uint8_t* b) const {
    std::int64_t sum = 0;
    for (std::int64_t w = 0; w < windows_; ++w) sum += std::max(a[w], b[w]);
    return sum;
  }

  // Returns the steps that it saves.
  std::int64_t swap_if_no_worse(int a, int b) {
    const std::int64_t now = steps_[index(a / kLanes)] + steps_[index(b / kLanes)];
    const std::int64_t then = sum_of_larger(without(a), needs_of(output_in(b))) +
                              sum_of_larger(without(b), needs_of(output_in(a)));
    if (then > now) return 0;
    std::swap(place_[index(a)], place_[index(b)]);
    update(a / kLanes);
    update(b / kLanes);
    return now - then;
  }

  int draw(std::uint32_t& state) const {
    state = state * 1664525u + 1013904223u;  // Numerical Recipes' generator, its upper bits
    return static_cast<int>((state >> 16) % static_cast<std::uint32_t>(outputs_));
  }

  // What no order can do without: in each window the most demanding outputs share one slice, the
  // next ones another.
  std::int64_t fewest_steps() const {
    std::int64_t sum = 0;
    std::array<std::uint8_t, kOrderBlock> of_window{};
    for (std::int64_t w = 0; w < windows_; ++w) {
      for (int o = 0; o < outputs_; ++o) of_window[index(o)] = needs_of(o)[w];
      std::sort(of_window.begin(), of_window.begin() + outputs_, std::greater<>());
      for (int o = 0; o < outputs_; o += kLanes) sum += of_window[index(o)];
    }
    return sum;
  }

  void update_all() {
    for (int slice = 0; slice * kLanes < outputs_; ++slice) update(slice);
  }
  void update(int slice) {
    std::uint8_t* most = most_of(slice);
    std::vector<std::uint8_t> second = bytes(1);
    std::fill_n(most, windows_, std::uint8_t{0});
    for (int place = slice * kLanes; place < end_of(slice); ++place) {
      const std::uint8_t* own = needs_of(output_in(place));
      for (std::int64_t w = 0; w < windows_; ++w) {
        second[static_cast<std::size_t>(w)] =
            std::max(second[static_cast<std::size_t>(w)], std::min(most[w], own[w]));
        most[w] = std::max(most[w], own[w]);
      }
    }
    for (int place = slice * kLanes; place < end_of(slice); ++place) {
      const std::uint8_t* own = needs_of(output_in(place));
      std::uint8_t* others = without(place);
      for (std::int64_t w = 0; w < windows_; ++w) {
        others[w] = own[w] == most[w] ? second[static_cast<std::size_t>(w)] : most[w];
      }
    }
    steps_[index(slice)] = std::accumulate(most, most + windows_, std::int64_t{0});
  }

  const std::uint8_t* needs_;
  std::int64_t windows_;
  int outputs_;
  std::array<int, kOrderBlock> place_{};
  std::array<std::int64_t, kSlices> steps_{};
  std::vector<std::uint8_t> most_, without_;
};

}  // namespace

std::vector<std::int32_t> group_outputs(const std::uint8_t* needs, std::int64_t windows,
                                        const SlicedOutputs& layout) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(layout.outputs));
  std::iota(order.begin(), order.end(), 0);
  std::int64_t saved = 0;
  for (std::int64_t begin = 0; begin < layout.outputs;) {
    const Range range = layout.block_of(begin);
    Block block(needs + range.begin * windows, windows, static_cast<int>(range.end - range.begin));
    const std::int64_t before = block.steps();
    block.fill_greedily();
    block.swap_at_random();
    if (block.steps() < before) {
      saved += before - block.steps();
      for (std::int64_t place = range.begin; place < range.end; ++place) {
        order[static_cast<std::size_t>(place)] = static_cast<std::int32_t>(
            range.begin + block.output_in(static_cast<int>(place - range.begin)));
      }
    }
    begin = range.end;
  }
  if (saved <= kOrderInSteps * layout.slices()) order.clear();
  return order;
}

}  // namespace skd
