// The floating-point environment as a hostile caller may have set it: flushing of subnormals,
// another rounding mode. Results must not depend on it, and it must be as it was after every call.
#pragma once

#include <cfenv>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "check/problem.h"

namespace skd::check {

// The control bits (not the sticky exception flags) of the calling thread.
inline unsigned control_word() {
#if defined(__SSE__)
  return _mm_getcsr() & 0xFFC0u;
#else
  return static_cast<unsigned>(std::fegetround());
#endif
}

class CallerEnvironment {
 public:
  explicit CallerEnvironment(Environment environment) {
    std::fegetenv(&saved_);
    switch (environment) {
      case Environment::standard:
      case Environment::flush:
        break;
      case Environment::upward:
      case Environment::flush_upward:
        std::fesetround(FE_UPWARD);
        break;
      case Environment::downward:
        std::fesetround(FE_DOWNWARD);
        break;
      case Environment::toward_zero:
        std::fesetround(FE_TOWARDZERO);
        break;
    }
#if defined(__SSE__)
    const bool flush =
        environment == Environment::flush || environment == Environment::flush_upward;
    if (flush) _mm_setcsr(_mm_getcsr() | 0x8040u);  // FTZ and DAZ
#endif
    word_ = control_word();
  }
  ~CallerEnvironment() { std::fesetenv(&saved_); }
  CallerEnvironment(const CallerEnvironment&) = delete;
  CallerEnvironment& operator=(const CallerEnvironment&) = delete;

  bool unchanged() const { return control_word() == word_; }

 private:
  std::fenv_t saved_;
  unsigned word_;
};

}  // namespace skd::check
