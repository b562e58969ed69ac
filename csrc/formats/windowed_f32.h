// The windowed fp32 weight, drawn in windowed_float.h. Windows of 16 inputs fit one register of 16
// floats and suit n:16 masks; windows of 32 take two and suit n:32.
#pragma once

#include "formats/windowed_float.h"

namespace skd {

using WindowedF32Weight = WindowedWeight<F32Format>;

// What a step of a window of 32 costs in steps of a window of 16 (measured: 1.30 against 1.04
// permute and FMA pairs a cycle).
inline constexpr double kF32Window32StepCost = 1.25;

// 16 or 32, whichever needs less time for this matrix [outputs][taps * inputs], which may be cut
// into other taps for each of the windows.
int cheaper_f32_window(const float* dense, const WindowedShape& narrow, const WindowedShape& wide);

}  // namespace skd
