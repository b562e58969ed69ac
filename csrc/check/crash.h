// A crash is a failure like any other: it ends in one line that repeats it, and exit code 1.
#pragma once

#include <string>

#include "check/guard.h"

namespace skd::check {

// Handles SIGSEGV, SIGBUS, SIGILL and SIGFPE on a stack of its own. `memory` tells which operand
// was left; it must outlive the process's use of the handler.
void catch_crashes(const GuardedMemory& memory);

// What a crash from now on prints, before it says what happened.
void set_crash_line(const std::string& line);

}  // namespace skd::check
