#include "check/pick.h"

#include <algorithm>

namespace skd::check {

std::int64_t pick_size(Random& random, std::int64_t largest) {
  const std::int64_t kind = random.in(0, 99);
  std::int64_t size = 0;
  if (kind < 40) {
    size = random.in(1, 48);
  } else if (kind < 85) {
    const std::int64_t unit = random.pick({4, 16, 64});
    size = unit * random.in(1, 320 / unit) + random.pick({-3, -1, 0, 0, 0, 1, 2});
  } else if (kind < 96) {
    size = random.in(65, 700);
  } else {
    size = random.in(700, 4200);
  }
  return std::clamp<std::int64_t>(size, 1, largest);
}

void pick_weights(Random& random, Problem& p) {
  p.mask = random.pick({Mask::full, Mask::nm_32, Mask::nm_32, Mask::nm_32, Mask::nm_64, Mask::nm_64,
                        Mask::random, Mask::random, Mask::random, Mask::ragged, Mask::ragged,
                        Mask::half, Mask::half, Mask::quarter});
  if (random.percent(9)) p.mask = random.pick({Mask::empty, Mask::one_output, Mask::last_input});
  if (p.mask == Mask::nm_32) p.mask_n = random.pick({1, 2, 4, 4, 6, 8, 16});
  if (p.mask == Mask::nm_64) p.mask_n = random.pick({2, 4, 8, 12, 16, 32});
  if (p.mask == Mask::random) p.mask_n = random.pick({2, 10, 25, 50, 75, 95});
  p.weights = random.pick({WeightFill::any, WeightFill::any, WeightFill::any, WeightFill::small,
                           WeightFill::extremes, WeightFill::extremes, WeightFill::all_127});
}

void pick_bytes(Random& random, Problem& p) {
  p.bytes = random.pick({ByteFill::any, ByteFill::any, ByteFill::any, ByteFill::small,
                         ByteFill::extremes, ByteFill::extremes, ByteFill::all_255});
  p.zero_point = random.pick({0, 1, 77, 128, 128, 200, 255});
}

void pick_floats(Random& random, Problem& p) {
  if (random.percent(82)) {
    p.floats =
        random.pick({FloatFill::normal, FloatFill::normal, FloatFill::integers, FloatFill::ties,
                     FloatFill::ties, FloatFill::wide, FloatFill::mixed, FloatFill::mixed});
  } else {
    p.floats = random.pick({FloatFill::zeros, FloatFill::tiny, FloatFill::subnormal, FloatFill::nan,
                            FloatFill::inf, FloatFill::huge});
  }
}

void pick_activation(Random& random, Problem& p) {
  p.bias = random.percent(60);
  p.activation =
      random.pick({Activation::none, Activation::none, Activation::none, Activation::relu,
                   Activation::relu, Activation::gelu, Activation::gelu, Activation::silu,
                   Activation::silu, Activation::relu6, Activation::hardswish});
}

void pick_environment(Random& random, Problem& p) {
  if (random.percent(60)) return;
  p.environment = random.pick({Environment::flush, Environment::upward, Environment::downward,
                               Environment::toward_zero, Environment::flush_upward});
}

}  // namespace skd::check
