// How a Linear is cut into pieces, whatever its format: row tiles, blocks of slices, parts for
// threads. Never along a sum.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/sizes.h"
#include "core/threads.h"
#include "formats/sliced_outputs.h"

namespace skd {

inline constexpr std::int64_t kBlockSlices = 16;        // 1 KB of each output row at a time
inline constexpr std::int64_t kBlockBytes = 384 << 10;  // weights of a block stay in L2
// Up to here a barrier and the other core's lines cost more than quantizing every row twice.
inline constexpr std::int64_t kFewRows = 16;

// A parallel region takes half a microsecond; the lines of the output and of the rows that the
// other core had last cost one to three more. Two threads pay from about five microseconds of one
// on. Few rows are bound by the bytes of the weights (45 a cycle from L2), as many as six by the
// arithmetic (some 150 bytes of weights a cycle and row).
inline bool worth_threads(std::int64_t bytes_per_row, std::int64_t rows,
                          std::int64_t bound_by_bytes = 6) {
  constexpr std::int64_t kWorth = 2560 << 10;
  return bytes_per_row >= kWorth / std::max(rows, bound_by_bytes);
}

// Whether threads share rows rather than slices. Where they share slices, both write to each output
// row, which costs a few per cent. Sharing rows has each stream all the weights, which costs little
// while they stay in its L2 or serve enough tiles.
inline bool share_rows(std::int64_t rows, int tile_rows, int threads, std::int64_t slices,
                       std::int64_t weight_bytes) {
  if (slices < 2 * threads) return rows > 1;
  const std::int64_t each = rows / threads;
  return 4 * each >= 3 * tile_rows && (weight_bytes <= (768 << 10) || each >= 2 * tile_rows);
}

// Scratch of a Linear call: rows x inputs in the kernel's type and at most 64 KB a thread. So few
// rows are copied for each thread only while they are short,
inline bool copy_for_each_thread(std::int64_t rows, std::int64_t row_bytes) {
  return rows <= kFewRows && row_bytes <= (48 << 10) / rows;
}
// and many rows go in passes, because each has some bytes beside its inputs: padding to whole lines
// and a scale.
inline std::int64_t rows_of_pass(std::int64_t bytes_beside) { return (64 << 10) / bytes_beside; }

// Rows cut into nearly equal tiles (9 = 5 + 4, never 8 + 1: each tile streams the weights once).
struct RowTiles {
  Range rows;
  int tile_rows;  // at most

  std::int64_t count() const { return ceil_div(rows.end - rows.begin, tile_rows); }
  Range operator[](std::int64_t index) const {
    const Range part = part_of(rows.end - rows.begin, index, count());
    return {rows.begin + part.begin, rows.begin + part.end};
  }
};

// A thread's part of the slices; of a weight with an order whole blocks of 64 outputs.
inline Range slices_of(const SlicedOutputs& layout, bool ordered, int thread, int threads) {
  if (!ordered) return part_of(layout.slices(), thread, threads);
  const Range blocks = part_of(layout.blocks(), thread, threads);
  return {layout.first_slice(blocks.begin), layout.first_slice(blocks.end)};
}

// How many slices make a block whose weights stay in L2 over the row tiles.
inline std::int64_t block_length(std::int64_t bytes_per_slice) {
  const std::int64_t fit = kBlockBytes / std::max<std::int64_t>(1, bytes_per_slice);
  // Of very long rows half a strip: 16 slices would not stay in L2.
  if (fit < kBlockSlices / 2) return kBlockSlices / 2;
  return std::max(kBlockSlices, fit / kBlockSlices * kBlockSlices);
}

// Calls body(rows, slices) for every row tile of every block of `length` slices: a row tile is in
// L1 while the block goes by.
template <class Body>
void for_each_piece(const RowTiles& tiles, Range slices, std::int64_t length, const Body& body) {
  for (std::int64_t s = slices.begin; s < slices.end; s += length) {
    const Range block{s, std::min(s + length, slices.end)};
    for (std::int64_t tile = 0; tile < tiles.count(); ++tile) body(tiles[tile], block);
  }
}

// Calls body(slices) for 16 slices at a time, so that at least 1 KB of an output row is written
// before the next row (columns of single lines miss the cache one by one).
template <class Body>
void for_each_strip(Range block, const Body& body) {
  for (std::int64_t s = block.begin; s < block.end; s += kBlockSlices) {
    body(Range{s, std::min(s + kBlockSlices, block.end)});
  }
}

}  // namespace skd
