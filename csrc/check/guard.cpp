#include "check/guard.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <new>

namespace skd::check {
namespace {

constexpr std::size_t kSmall = std::size_t{64} << 10;
constexpr std::size_t kLarge = std::size_t{32} << 20;  // virtual; only what is touched costs memory
constexpr std::size_t kMargin = 128;                   // marked bytes on the unguarded side
constexpr unsigned char kMark = 0xA5;

std::size_t page_size() {
  static const std::size_t size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

}  // namespace

GuardedMemory::~GuardedMemory() {
  for (const auto* regions : {&small_, &large_}) {
    for (const Region& region : *regions) {
      munmap(region.memory - page_size(), region.capacity + 2 * page_size());
    }
  }
}

void GuardedMemory::start(Side side) {
  side_ = side;
  small_used_ = large_used_ = 0;
}

GuardedMemory::Region& GuardedMemory::free_region(std::size_t bytes) {
  const bool small = bytes + kMargin <= kSmall;
  const std::size_t capacity = small ? kSmall : kLarge;
  if (bytes + kMargin > capacity) throw std::bad_alloc();
  std::vector<Region>& regions = small ? small_ : large_;
  std::size_t& used = small ? small_used_ : large_used_;
  if (used == regions.size()) {
    void* mapped = mmap(nullptr, capacity + 2 * page_size(), PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    unsigned char* memory = static_cast<unsigned char*>(mapped) + page_size();
    if (mprotect(memory, capacity, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
    regions.push_back({memory, capacity, "", memory, 0});
  }
  return regions[used++];
}

unsigned char* GuardedMemory::take_bytes(const char* name, std::int64_t bytes) {
  const std::size_t size = static_cast<std::size_t>(bytes);
  Region& region = free_region(size);
  region.name = name;
  region.size = size;
  if (side_ == Side::end) {
    region.operand = region.memory + region.capacity - size;
    std::memset(region.operand - kMargin, kMark, kMargin);
  } else {
    region.operand = region.memory;
    std::memset(region.operand + size, kMark, kMargin);
    if (size == 0) return region.memory - page_size();
  }
  return region.operand;
}

void GuardedMemory::copy_bytes(void* to, const void* from, std::int64_t bytes) {
  if (bytes > 0) std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

const char* GuardedMemory::overwritten() const {
  const auto touched = [this](const Region& region) {
    const unsigned char* margin =
        side_ == Side::end ? region.operand - kMargin : region.operand + region.size;
    return !std::all_of(margin, margin + kMargin, [](unsigned char b) { return b == kMark; });
  };
  for (std::size_t i = 0; i < small_used_; ++i) {
    if (touched(small_[i])) return small_[i].name;
  }
  for (std::size_t i = 0; i < large_used_; ++i) {
    if (touched(large_[i])) return large_[i].name;
  }
  return nullptr;
}

const char* GuardedMemory::guard_of(const void* address, std::int64_t* distance) const {
  const unsigned char* byte = static_cast<const unsigned char*>(address);
  const auto inside = [&](const Region& region) {
    const unsigned char* end = region.memory + region.capacity;
    if (byte >= end && byte < end + page_size()) {
      *distance = byte - (region.operand + region.size) + 1;
      return true;
    }
    if (byte < region.memory && byte >= region.memory - page_size()) {
      *distance = byte - region.operand;
      return true;
    }
    return false;
  };
  for (std::size_t i = 0; i < small_used_; ++i) {
    if (inside(small_[i])) return small_[i].name;
  }
  for (std::size_t i = 0; i < large_used_; ++i) {
    if (inside(large_[i])) return large_[i].name;
  }
  return nullptr;
}

}  // namespace skd::check
