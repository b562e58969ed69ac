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

}  // namespace skd::check
