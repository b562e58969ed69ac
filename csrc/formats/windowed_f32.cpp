#include "formats/windowed_f32.h"

namespace skd {

int cheaper_f32_window(const float* dense, const WindowedShape& shape) {
  WindowedShape with = shape;
  with.window = 16;
  const auto narrow = static_cast<double>(WindowedF32Weight::count_steps(dense, with));
  with.window = 32;
  const auto wide = static_cast<double>(WindowedF32Weight::count_steps(dense, with));
  return wide * kF32Window32StepCost < narrow ? 32 : 16;
}

}  // namespace skd
