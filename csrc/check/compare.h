// Comparisons of results, to the bit. Each throws Failure with the first difference.
#pragma once

#include <cstdint>
#include <cstring>
#include <sstream>
#include <stdexcept>
#include <string>

#include "kernels/kernels.h"
#include "kernels/reference.h"

namespace skd::check {

// What is wrong with a result, in words; the caller knows which problem it was.
class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <class... Parts>
void expect(bool ok, const Parts&... parts) {
  if (ok) return;
  std::ostringstream message;
  message.precision(9);
  (message << ... << parts);
  throw Failure(message.str());
}

// The same bits, or both NaN (which NaN is not promised).
inline bool same(float a, float b) {
  return (a != a && b != b) || std::memcmp(&a, &b, sizeof(a)) == 0;
}

// How many results were compared, and how many of them could have told a difference: a test whose
// outputs are mostly zeros proves nothing.
struct Coverage {
  std::int64_t results = 0, telling = 0;
  bool threaded = false;  // more than one thread took part

  void count(bool telling_result) {
    ++results;
    telling += telling_result;
  }
};

// Rows of a matrix that lie `stride` apart, with marked elements between them. A gap that has lost
// its mark was written to.
template <class T>
void mark(T* memory, std::int64_t count) {
  if (count > 0) std::memset(memory, 0xA5, static_cast<std::size_t>(count) * sizeof(T));
}
template <class T>
void expect_gaps_kept(const char* name, const T* matrix, std::int64_t rows, std::int64_t columns,
                      std::int64_t stride) {
  T marked;
  std::memset(&marked, 0xA5, sizeof(marked));
  for (std::int64_t r = 0; r + 1 < rows; ++r) {
    for (std::int64_t c = columns; c < stride; ++c) {
      const bool kept = std::memcmp(&matrix[r * stride + c], &marked, sizeof(T)) == 0;
      expect(kept, name, '[', r, "][", c, "] was written to, past the ", columns, " of the row");
    }
  }
}
// Elements of a matrix in memory: the last row has no gap behind it.
constexpr std::int64_t extent(std::int64_t rows, std::int64_t columns, std::int64_t stride) {
  return rows == 0 ? 0 : (rows - 1) * stride + columns;
}

// One fp32 output against its value before the activation. GELU and SiLU: within the bound of the
// reference, and `scalar` (null: not asked) has the same bits. All others: the reference's bits.
void expect_output(std::int64_t row, std::int64_t column, float got, float before,
                   Activation activation, const float* scalar);

// One fp32 output of an fp32 or bf16 sum: within its bound, after the activation as well. A tainted
// sum may be anything, but not a number where the exact one is none.
void expect_float(std::int64_t row, std::int64_t column, float got, const reference::Sum& sum,
                  Activation activation);
// Whether that comparison could tell a missing product.
bool is_telling(const reference::Sum& sum, float bias);

}  // namespace skd::check
