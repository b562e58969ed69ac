// A small deterministic generator (splitmix64): the same numbers on every platform and compiler,
// which <random>'s distributions do not promise.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace skd::check {

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  // An independent stream for (seed, index): the index is scrambled, so neighbours do not overlap.
  Random(std::uint64_t seed, std::uint64_t index) : state_(index) { state_ = next() ^ seed; }

  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }
  // Uniform in low..high, both included. 32 random bits are enough for every range in use.
  std::int64_t in(std::int64_t low, std::int64_t high) {
    const std::uint64_t span = static_cast<std::uint64_t>(high - low) + 1;
    return low + static_cast<std::int64_t>((next() >> 32) * span >> 32);
  }
  bool percent(int chance) { return in(0, 99) < chance; }
  float unit() { return static_cast<float>(next() >> 40) * 0x1p-24f; }  // [0, 1)
  float symmetric() { return 2 * unit() - 1; }                          // [-1, 1)
  template <class T>
  T pick(std::initializer_list<T> choices) {
    return choices.begin()[in(0, static_cast<std::int64_t>(choices.size()) - 1)];
  }

 private:
  std::uint64_t state_;
};

}  // namespace skd::check
