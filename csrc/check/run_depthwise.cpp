// The depthwise entries of a kernel table, called directly: every row on a guard page of its own,
// any part of the slices.
#include <cmath>
#include <type_traits>
#include <vector>

#include "check/conv_images.h"
#include "check/data.h"
#include "check/runner.h"
#include "formats/depthwise.h"

namespace skd::check {
namespace {

constexpr Side kSides[] = {Side::end, Side::start};

// x: [taps][rows][channels]; with same_rows all are the first.
template <class Tile, class Input>
Tile guard_tile(const Problem& p, const std::vector<Input>& x, GuardedMemory& memory) {
  using Sum = std::remove_pointer_t<decltype(Tile::acc)>;
  std::vector<const Input*> rows;
  for (std::int64_t i = 0; i < p.taps * p.rows; ++i) {
    const bool shared = i > 0 && p.same_rows;
    rows.push_back(shared ? rows[0]
                          : memory.copy("a row of x", x.data() + i * p.outputs, p.outputs));
  }
  const std::int64_t columns = p.slice_count * kLanes;
  Tile tile{};
  tile.rows = memory.copy("the row pointers", rows.data(), p.taps * p.rows);
  tile.row_count = static_cast<int>(p.rows);
  tile.taps = p.taps;
  tile.inputs = p.outputs;
  tile.first_slice = p.first_slice;
  tile.slice_count = p.slice_count;
  tile.acc_stride = columns + p.out_gap;
  const std::int64_t count = extent(p.rows, columns, tile.acc_stride);
  tile.acc = memory.take<Sum>("acc", count);
  mark(tile.acc, count);
  return tile;
}

// Calls each(row, column, channel) for the sums of the tile that belong to a channel.
template <class Each>
void for_each_sum(const Problem& p, const Each& each) {
  const std::int64_t first = p.first_slice * kLanes;
  for (std::int64_t r = 0; r < p.rows; ++r) {
    for (std::int64_t c = 0; c < p.slice_count * kLanes && first + c < p.outputs; ++c) {
      each(r, c, first + c);
    }
  }
}

// Where the input of a tap, row and channel stands.
std::size_t at(const Problem& p, std::int64_t tap, std::int64_t row, std::int64_t channel) {
  return size((p.same_rows ? 0 : tap * p.rows + row) * p.outputs + channel);
}

Coverage check_s8(const Problem& p, const Subject& subject) {
  Random random(p.seed);
  const std::vector<std::int8_t> dense = make_weights(p, random);
  std::vector<std::uint8_t> x(size(p.taps * p.rows * p.outputs));
  fill_bytes(p.bytes, random, x.data(), static_cast<std::int64_t>(x.size()));
  const DepthwiseS8Weight weight(taps_first(p, dense).data(), p.outputs, p.taps);

  Coverage coverage;
  for (const Side side : kSides) {
    subject.memory.start(side);
    TileS8 tile = guard_tile<TileS8>(p, x, subject.memory);
    tile.zero_point = p.zero_point;
    DepthwiseS8 view = weight.view();
    const std::int64_t places = round_up(p.outputs, kDepthwiseChannels);
    view.quads = subject.memory.copy("quads", view.quads, places * round_up(p.taps, kDot));
    view.weight_sums = subject.memory.copy("weight_sums", view.weight_sums, places);
    guarded_call(Environment::standard, subject.memory,
                 [&] { subject.table.depthwise_s8(view, tile); });
    expect_gaps_kept("acc", tile.acc, p.rows, p.slice_count * kLanes, tile.acc_stride);
    for_each_sum(p, [&](std::int64_t r, std::int64_t c, std::int64_t channel) {
      std::int64_t sum = 0;
      for (int tap = 0; tap < p.taps; ++tap) {
        sum += (x[at(p, tap, r, channel)] - p.zero_point) * dense[size(channel * p.taps + tap)];
      }
      const std::int32_t got = tile.acc[r * tile.acc_stride + c];
      expect(got == sum, "acc[", r, "][", c, "] = ", got, ", expected ", sum);
      if (side == Side::end) coverage.count(sum != 0);
    });
  }
  return coverage;
}

Coverage check_f32(const Problem& p, const Subject& subject) {
  Random random(p.seed);
  const std::vector<float> dense = make_float_weights(p, random);
  std::vector<float> x(size(p.taps * p.rows * p.outputs));
  for (std::int64_t i = 0; i < p.taps * p.rows; ++i) {
    fill_floats(p.floats, random, x.data() + i * p.outputs, p.outputs);
  }
  const DepthwiseF32Weight weight(taps_first(p, dense).data(), p.outputs, p.taps);

  Coverage coverage;
  for (const Side side : kSides) {
    subject.memory.start(side);
    const TileF32 tile = guard_tile<TileF32>(p, x, subject.memory);
    const DepthwiseF32 view{
        subject.memory.copy("values", weight.view().values, p.taps * p.outputs)};
    guarded_call(Environment::standard, subject.memory,
                 [&] { subject.table.depthwise_f32(view, tile); });
    expect_gaps_kept("acc", tile.acc, p.rows, p.slice_count * kLanes, tile.acc_stride);
    for_each_sum(p, [&](std::int64_t r, std::int64_t c, std::int64_t channel) {
      reference::Sum sum;  // NaN reaches its own channel of its own row and nothing else
      for (int tap = 0; tap < p.taps; ++tap) {
        const float value = x[at(p, tap, r, channel)];
        sum.tainted = sum.tainted || !std::isfinite(value);
        sum.add(dense[size(channel * p.taps + tap)], value);
      }
      expect_float(r, c, tile.acc[r * tile.acc_stride + c], sum, Activation::none);
      if (side == Side::end) coverage.count(is_telling(sum, 0));
    });
  }
  return coverage;
}

}  // namespace

Coverage run_tile_depthwise(const Problem& p, const Subject& subject) {
  return is_float(p.op) ? check_f32(p, subject) : check_s8(p, subject);
}

}  // namespace skd::check
