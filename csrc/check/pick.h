// How the parts of a problem that several operations share are drawn.
#pragma once

#include "check/problem.h"
#include "check/random.h"

namespace skd::check {

// A size: mostly small, often beside a multiple of 4, 16 or 64, now and then a large one.
std::int64_t pick_size(Random& random, std::int64_t largest);
void pick_weights(Random& random, Problem& p);     // mask and values
void pick_bytes(Random& random, Problem& p);       // and a zero point
void pick_floats(Random& random, Problem& p);      // the fill of the input
void pick_activation(Random& random, Problem& p);  // and whether there is a bias
void pick_environment(Random& random, Problem& p);

void pick_conv(Random& random, Problem& p);
void pick_pool(Random& random, Problem& p);
void pick_add(Random& random, Problem& p);
std::string describe_pool(const Problem& p);
std::string describe_images(const Problem& p);

}  // namespace skd::check
