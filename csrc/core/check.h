// Errors: one exception type with one clear sentence. The library throws; it never aborts, prints
// or exits. Bindings turn skd::Error into Python's ValueError.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace skd {

class Error : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

// require(ok, "what came, ", value, ", what was expected") throws skd::Error when !ok.
template <class... Parts>
void require(bool ok, const Parts&... parts) {
  if (ok) return;
  std::ostringstream message;
  (message << ... << parts);
  throw Error(message.str());
}

}  // namespace skd
