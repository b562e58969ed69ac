// Sums of two images as ops/add.h does them, one element at a time.
#include <cmath>
#include <vector>

#include "check/conv_images.h"
#include "check/data.h"
#include "check/runner.h"
#include "check/thread_watch.h"
#include "ops/add.h"

namespace skd::check {
namespace {

// One side: bytes with a scale, or fp32.
struct Operand {
  std::vector<float> f32;
  std::vector<std::uint8_t> u8;
  U8Scale scale;

  Operand(Random& random, const Problem& p, bool bytes, std::int32_t zero_point)
      : scale{random.percent(5) ? random.pick({0x1p-120f, 3e38f}) : random.pick({0.02f, 0.037f}),
              zero_point} {
    f32.resize(bytes ? 0 : size(p.inputs));
    u8.resize(bytes ? size(p.inputs) : 0);
    if (bytes) fill_bytes(ByteFill::any, random, u8.data(), p.inputs);
    if (!bytes) fill_floats(p.floats, random, f32.data(), p.inputs);
  }
  float value(std::int64_t i) const {
    return u8.empty() ? f32[size(i)]
                      : reference::dequantize_u8(u8[size(i)], scale.scale, scale.zero_point);
  }
  AddInput guarded(const char* name, GuardedMemory& memory) const {
    if (!u8.empty()) {
      return {nullptr, memory.copy(name, u8.data(), static_cast<std::int64_t>(u8.size())), scale};
    }
    return {memory.copy(name, f32.data(), static_cast<std::int64_t>(f32.size())), nullptr, scale};
  }
};

}  // namespace

Coverage run_add(const Problem& p, const Subject& subject) {
  Random random(p.seed);
  const Operand a(random, p, p.images.u8_in, p.zero_point);
  const Operand b(random, p, p.residual == Residual::u8, random.pick({0, 3, 128, 255}));
  const U8Scale out{random.percent(5) ? random.pick({0x1p-120f, 3e38f}) : 0.041f,
                    p.images.out_zero_point};
  const bool u8 = p.images.u8_out;
  const bool approximate = p.activation == Activation::gelu || p.activation == Activation::silu;
  Coverage coverage;
  const ThreadWatch watch(subject.table);
  for (const Side side : {Side::end, Side::start}) {
    subject.memory.start(side);
    const AddInput first = a.guarded("a", subject.memory), second = b.guarded("b", subject.memory);
    const AddOutput y{u8 ? nullptr : subject.memory.take<float>("y", p.inputs),
                      u8 ? subject.memory.take<std::uint8_t>("u8 y", p.inputs) : nullptr, out};
    if (u8) mark(y.u8, p.inputs);
    if (!u8) mark(y.f32, p.inputs);
    guarded_call(p.environment, subject.memory,
                 [&] { add(first, second, y, p.inputs, p.activation, p.threads, &watch.table()); });
    for (std::int64_t i = 0; i < p.inputs; ++i) {
      const float before = a.value(i) + b.value(i);
      if (side == Side::end) coverage.count(std::isfinite(before) && before != 0);
      if (!u8) {
        expect_output(0, i, y.f32[i], before, p.activation, nullptr);
        continue;
      }
      const float exact = static_cast<float>(reference::activate(p.activation, before));
      std::uint8_t expected;
      reference::quantize_static_u8(&exact, 1, 1.0f / out.scale, out.zero_point, &expected);
      const int off = std::abs(y.u8[i] - expected);
      expect(off == 0 || (approximate && (off == 1 || out.scale < 1e-3f)), "u[", i,
             "] = ", int{y.u8[i]}, ", expected ", int{expected}, " from ", before);
    }
  }
  coverage.threaded = watch.several();
  return coverage;
}

}  // namespace skd::check
