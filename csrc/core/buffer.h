// An owned array that starts on a cache line. Contents are not initialised.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#include "core/sizes.h"

namespace skd {

// What all Buffers hold, in bytes: memory bounds are measured with it. Only allocations touch it,
// and calls reuse their scratch.
class BufferBytes {
 public:
  static void add(std::int64_t bytes) {
    const std::int64_t now = held_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    std::int64_t most = most_.load(std::memory_order_relaxed);
    while (now > most && !most_.compare_exchange_weak(most, now, std::memory_order_relaxed)) {
    }
  }
  static std::int64_t held() { return held_.load(std::memory_order_relaxed); }
  // The most since the last restart().
  static std::int64_t most() { return most_.load(std::memory_order_relaxed); }
  static void restart() { most_.store(held(), std::memory_order_relaxed); }

 private:
  static inline std::atomic<std::int64_t> held_{0}, most_{0};
};

template <class T>
class Buffer {
 public:
  static constexpr std::size_t kAlignment = 64;

  Buffer() = default;
  explicit Buffer(std::int64_t size) : size_(size) {
    const std::int64_t bytes = checked_mul(size, sizeof(T));
    if (bytes > 0) {
      data_ = static_cast<T*>(::operator new(static_cast<std::size_t>(bytes), kAlign));
      BufferBytes::add(bytes);
    }
  }
  static Buffer copy_of(const T* source, std::int64_t size) {
    Buffer copy(size);
    if (size > 0) std::memcpy(copy.data_, source, static_cast<std::size_t>(size) * sizeof(T));
    return copy;
  }
  static Buffer zeros(std::int64_t size) {
    Buffer zero(size);
    if (size > 0) std::memset(zero.data_, 0, static_cast<std::size_t>(size) * sizeof(T));
    return zero;
  }
  ~Buffer() {
    if (data_ == nullptr) return;
    BufferBytes::add(-size_ * static_cast<std::int64_t>(sizeof(T)));
    ::operator delete(data_, kAlign);
  }
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  // Room for `size` elements, in scratch that is kept from call to call. Contents are lost; what
  // was held is freed first.
  T* reserve(std::int64_t size) {
    if (size_ < size) {
      *this = Buffer();
      *this = Buffer(size);
    }
    return data_;
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  std::int64_t size() const { return size_; }
  T& operator[](std::int64_t i) { return data_[i]; }
  const T& operator[](std::int64_t i) const { return data_[i]; }

 private:
  static constexpr std::align_val_t kAlign{kAlignment};
  T* data_ = nullptr;
  std::int64_t size_ = 0;
};

}  // namespace skd
