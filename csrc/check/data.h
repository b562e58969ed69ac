// The data of a problem: weights under a mask, bytes, floats. All follow from the problem's seed.
#pragma once

#include <cstdint>
#include <vector>

#include "check/problem.h"
#include "check/random.h"

namespace skd::check {

// [outputs][taps][inputs], -127..127; zero where the mask drops.
std::vector<std::int8_t> make_weights(const Problem& p, Random& random);

// The same mask with fp32 values of the order of 1, which bf16 holds exactly where the operation is
// in bf16.
std::vector<float> make_float_weights(const Problem& p, Random& random);

// The output that stands in each place: those of every group shuffled, reversed or as they are
// within blocks of 64, the last one short.
std::vector<std::int32_t> make_order(Random& random, std::int64_t outputs, std::int64_t groups);
// Of an ordered problem; empty for others, and where no output would move.
std::vector<std::int32_t> order_of(const Problem& p);
// For each output its place within the block.
std::vector<std::int32_t> places_of(const std::vector<std::int32_t>& order, std::int64_t groups);

void fill_bytes(ByteFill fill, Random& random, std::uint8_t* bytes, std::int64_t count);

// One row of activations, of the order of 1 to 100 where the fill is not about something else.
void fill_floats(FloatFill fill, Random& random, float* x, std::int64_t count);

// Positive finite scales of a layer of `inputs` inputs: outputs come out at about 1.
void fill_scales(Random& random, std::int64_t inputs, float* scale, std::int64_t count);

}  // namespace skd::check
