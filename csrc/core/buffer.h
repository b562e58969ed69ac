// An owned array that starts on a cache line. Contents are not initialised.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#include "core/sizes.h"

namespace skd {

template <class T>
class Buffer {
 public:
  static constexpr std::size_t kAlignment = 64;

  Buffer() = default;
  explicit Buffer(std::int64_t size) : size_(size) {
    const std::int64_t bytes = checked_mul(size, sizeof(T));
    if (bytes > 0) {
      data_ = static_cast<T*>(::operator new(static_cast<std::size_t>(bytes), kAlign));
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
    if (data_ != nullptr) ::operator delete(data_, kAlign);
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
