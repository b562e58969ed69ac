// A copy of a table whose kernels of Linear, epilogues and row pointers note the threads that call
// them: most problems are small and run on one thread, whatever they ask for, and the run must
// tell if all did.
#pragma once

#include <atomic>

#include "kernels/kernels.h"

namespace skd::check {

class ThreadWatch {
 public:
  explicit ThreadWatch(const KernelTable& table) : table_(table) {
    inner = table;
    table_.epilogue_fp32 = [](const EpilogueFp32& job) {
      note();
      inner.epilogue_fp32(job);
    };
    table_.epilogue_sums = [](const EpilogueSums& job) {
      note();
      inner.epilogue_sums(job);
    };
    table_.linear_windowed_s8 = [](const WindowedS8& weight, const TileS8& tile) {
      note();
      inner.linear_windowed_s8(weight, tile);
    };
    table_.linear_dense_s8 = [](const DenseS8& weight, const TileS8& tile) {
      note();
      inner.linear_dense_s8(weight, tile);
    };
    table_.linear_windowed_f32 = [](const WindowedF32& weight, const TileF32& tile) {
      note();
      inner.linear_windowed_f32(weight, tile);
    };
    table_.linear_windowed_bf16 = [](const WindowedBf16& weight, const TileBf16& tile) {
      note();
      inner.linear_windowed_bf16(weight, tile);
    };
    table_.row_pointers_u8 = [](const RowPointersU8& job) {
      note();
      inner.row_pointers_u8(job);
    };
    ++watch;
    threads = 0;
  }
  const KernelTable& table() const { return table_; }
  bool several() const { return threads > 1; }

 private:
  static void note() {
    thread_local int last_watch = 0;
    if (last_watch != watch) ++threads;
    last_watch = watch;
  }
  static inline KernelTable inner{};
  static inline int watch = 0;
  static inline std::atomic<int> threads{0};
  KernelTable table_;
};

}  // namespace skd::check
