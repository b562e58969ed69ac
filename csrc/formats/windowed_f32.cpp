#include "formats/windowed_f32.h"

#include "formats/group_outputs.h"

namespace skd {
namespace {

// What packing makes of a matrix: its steps, in the order of outputs that packing would find, and
// what that order costs.
double steps_when_packed(const float* dense, const WindowedShape& shape) {
  const std::vector<std::int32_t> order = WindowedF32Weight::find_order(dense, shape);
  if (order.empty()) return static_cast<double>(WindowedF32Weight::count_steps(dense, shape));
  const std::int64_t slices = SlicedOutputs::of(shape.outputs, shape.groups).slices();
  return static_cast<double>(WindowedF32Weight::count_steps(dense, shape, order.data()) +
                             kOrderInSteps * slices);
}

}  // namespace

int cheaper_f32_window(const float* dense, const WindowedShape& narrow, const WindowedShape& wide) {
  const double steps = steps_when_packed(dense, narrow);
  return steps_when_packed(dense, wide) * kF32Window32StepCost < steps ? 32 : 16;
}

}  // namespace skd
