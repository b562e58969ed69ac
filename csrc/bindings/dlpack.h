// The part of DLPack's C interface (version 1) that this extension calls: torch fills in a Tensor
// for one of its own, without a copy and without Python. The layout is fixed by that standard
// (dmlc.github.io/dlpack, "C API"); fields that are not used here are plain pointers.
#pragma once

#include <cstdint>

namespace skd::dlpack {

inline constexpr std::uint32_t kMajorVersion = 1;
inline constexpr char kCapsuleName[] = "dlpack_exchange_api";
inline constexpr char kTypeAttribute[] = "__dlpack_c_exchange_api__";

enum DeviceType : std::int32_t { kCpu = 1 };
enum TypeCode : std::uint8_t { kFloat = 2 };

struct Device {
  std::int32_t type, id;
};

struct DataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  std::int32_t dims;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null: row-major
  std::uint64_t byte_offset;
};

struct ExchangeApi {
  std::uint32_t major, minor;
  ExchangeApi* older;  // a table of an earlier version, or null
  void* allocate;
  void* managed_from_python;
  void* managed_to_python;
  // 0, or -1 with a Python error set. Borrowed: valid as long as the object is. May be null.
  int (*from_python)(void* object, Tensor* out);
  void* current_stream;
};

}  // namespace skd::dlpack
