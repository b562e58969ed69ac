// What is added to the outputs of a convolution or an epilogue before the activation: drawn from
// the seed, kept as bytes or fp32 in the order of the outputs.
#pragma once

#include <cstdint>
#include <vector>

#include "check/conv_images.h"
#include "check/data.h"
#include "check/guard.h"
#include "check/problem.h"

namespace skd::check {

struct ResidualData {
  std::vector<float> f32;        // [batch][pixels][outputs], or
  std::vector<std::uint8_t> u8;  // likewise
  float scale = 1;
  std::int32_t zero_point = 0;

  bool empty() const { return f32.empty() && u8.empty(); }
  // before + the residual's element i, in fp32; before itself where there is none.
  float added(float before, std::int64_t i) const { return empty() ? before : before + value(i); }
  float value(std::int64_t i) const {
    return u8.empty() ? f32[size(i)] : reference::dequantize_u8(u8[size(i)], scale, zero_point);
  }
};

inline ResidualData make_residual(const Problem& p, Random& random, std::int64_t count,
                                  FloatFill fill) {
  ResidualData data;
  if (p.residual == Residual::f32) {
    data.f32.resize(size(count));
    fill_floats(fill, random, data.f32.data(), count);
  }
  if (p.residual == Residual::u8) {
    data.u8.resize(size(count));
    fill_bytes(ByteFill::any, random, data.u8.data(), count);
    data.scale = random.percent(5) ? 1e30f : random.pick({0.004f, 0.013f, 0.03f});
    data.zero_point = random.pick({0, 1, 77, 128, 255});
  }
  return data;
}

// The residual of samples from `begin` on, in memory of its own and in the problem's layout.
class GuardedResidual {
 public:
  GuardedResidual(const Problem& p, const ResidualData& data, GuardedMemory& memory)
      : layout_(p.images.residual), scale_(data.scale), zero_point_(data.zero_point) {
    if (!data.u8.empty()) u8_ = memory.copy("u8 residual", data.u8.data(), count(data.u8));
    if (data.f32.empty()) return;
    std::vector<float> placed(data.f32.size());
    for (std::int64_t i = 0; i < count(data.f32); ++i) {
      placed[size(output_at(p, where_of(p, i), layout_))] = data.f32[size(i)];
    }
    f32_ = memory.copy("residual", placed.data(), count(placed));
  }
  ConvResidual from(std::int64_t offset) const {
    return {f32_ == nullptr ? nullptr : f32_ + offset, u8_ == nullptr ? nullptr : u8_ + offset,
            layout_, scale_, zero_point_};
  }

 private:
  template <class T>
  static std::int64_t count(const std::vector<T>& v) {
    return static_cast<std::int64_t>(v.size());
  }

  const float* f32_ = nullptr;
  const std::uint8_t* u8_ = nullptr;
  Layout layout_;
  float scale_;
  std::int32_t zero_point_;
};

}  // namespace skd::check
