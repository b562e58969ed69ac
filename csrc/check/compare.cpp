#include "check/compare.h"

#include <cmath>

#include "kernels/reference.h"

namespace skd::check {

void expect_output(std::int64_t row, std::int64_t column, float got, float before,
                   Activation activation, const float* scalar) {
  const double exact = reference::activate(activation, before);
  if (activation != Activation::gelu && activation != Activation::silu) {
    const float expected = static_cast<float>(exact);
    return expect(same(got, expected), "y[", row, "][", column, "] = ", got, ", expected ",
                  expected);
  }
  // -Inf times a zero: torch says NaN, the limit is 0. Either will do, on every ISA the same.
  const bool open = std::isinf(before) && before < 0;
  if (open) {
    expect(std::isnan(got) || std::fabs(got) <= 1e-7f, "y[", row, "][", column, "] = ", got,
           ", expected NaN or 0 from ", before);
  } else if (std::isfinite(exact)) {
    const double bound = reference::activation_bound(activation, exact);
    expect(std::fabs(got - exact) <= bound, "y[", row, "][", column, "] = ", got, ", expected ",
           exact, " +- ", bound, " from ", before);
  } else {
    const float expected = static_cast<float>(exact);
    expect(same(got, expected), "y[", row, "][", column, "] = ", got, ", expected ", expected,
           " from ", before);
  }
  if (scalar != nullptr) {
    expect(same(got, *scalar), "y[", row, "][", column, "] = ", got, ", but scalar gives ", *scalar,
           " from ", before);
  }
}

namespace {

// Past this, fp32 may overflow on its way to a sum that does not, or in hardswish, x (x + 3) / 6.
constexpr double kLargestSum = 4e37;
constexpr double kSteepest = 1.5;  // slope of any activation

}  // namespace

void expect_float(std::int64_t row, std::int64_t column, float got, const reference::Sum& sum,
                  Activation activation) {
  if (sum.tainted) {
    const bool lost =
        activation == Activation::none && !std::isfinite(sum.value) && std::isfinite(got);
    return expect(!lost, "y[", row, "][", column, "] = ", got, ", but a term is NaN or Inf");
  }
  if (sum.magnitude > kLargestSum) return;
  const double exact = reference::activate(activation, sum.value);
  double bound = reference::sum_bound(sum);
  if (activation != Activation::none) bound *= kSteepest;
  bound += reference::activation_bound(activation, exact);
  // The reference rounds each step of this one to fp32.
  if (activation == Activation::hardswish) bound += 0x1p-22 * std::fabs(sum.value);
  expect(std::fabs(got - exact) <= bound, "y[", row, "][", column, "] = ", got, ", expected ",
         exact, " +- ", bound);
}

bool is_telling(const reference::Sum& sum, float bias) {
  return !sum.tainted && sum.magnitude <= kLargestSum &&
         std::fabs(sum.value - bias) > 4 * reference::sum_bound(sum);
}

}  // namespace skd::check
