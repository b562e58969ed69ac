// Memory whose first or last byte touches a page that can not be read or written, so that a kernel
// that goes one byte too far dies at once. The pages are mapped once and used again by problem
// after problem.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace skd::check {

enum class Side : int { end, start };  // the side on which operands touch their guard page

class GuardedMemory {
 public:
  GuardedMemory() = default;
  ~GuardedMemory();
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;

  // All memory that was taken becomes free; operands taken from now on touch the guard on `side`.
  void start(Side side);

  // `count` elements on one guard page. A few bytes on the other side are marked, for intact().
  // An operand of no elements lies inside the guard page: not one byte of it may be touched.
  template <class T>
  T* take(const char* name, std::int64_t count) {
    return reinterpret_cast<T*>(take_bytes(name, count * static_cast<std::int64_t>(sizeof(T))));
  }
  template <class T>
  T* copy(const char* name, const T* source, std::int64_t count) {
    T* memory = take<T>(name, count);
    copy_bytes(memory, source, count * static_cast<std::int64_t>(sizeof(T)));
    return memory;
  }

  // The name of an operand whose surroundings were written to, or null. Only the side without a
  // guard page needs to be looked at.
  const char* overwritten() const;

  // Which operand's guard page holds `address`, and how far outside it lies (negative: before the
  // start); null if none does. Called from a signal handler.
  const char* guard_of(const void* address, std::int64_t* distance) const;

 private:
  struct Region {
    unsigned char* memory;  // between two guards of one page
    std::size_t capacity;
    const char* name;
    unsigned char* operand;
    std::size_t size;
  };
  unsigned char* take_bytes(const char* name, std::int64_t bytes);
  static void copy_bytes(void* to, const void* from, std::int64_t bytes);
  Region& free_region(std::size_t bytes);

  std::vector<Region> small_, large_;
  std::size_t small_used_ = 0, large_used_ = 0;
  Side side_ = Side::end;
};

}  // namespace skd::check
