#include "formats/windowed_f32.h"

namespace skd {

int cheaper_f32_window(const float* dense, const WindowedShape& narrow, const WindowedShape& wide) {
  const auto steps = static_cast<double>(WindowedF32Weight::count_steps(dense, narrow));
  const auto wide_steps = static_cast<double>(WindowedF32Weight::count_steps(dense, wide));
  return wide_steps * kF32Window32StepCost < steps ? 32 : 16;
}

}  // namespace skd
