// The only place that starts threads: OpenMP, through entry points that every libgomp since GCC 4
// has, so that the extension shares the copy that torch has already loaded.
#pragma once

#include <cstdint>

namespace skd {

// How many threads a call may use: `requested`, but 1 inside another parallel region (a nested team
// would oversubscribe) and in a forked child (libgomp's pool does not survive fork()).
int usable_threads(int requested);

// Meeting point of the threads of one parallel() call.
void barrier();

// Calls body(thread, threads) on `threads` threads; with 1 it is a plain call and no region. The
// body must not throw. Each call runs under DefaultFloatEnvironment.
void parallel_raw(int threads, void (*body)(int thread, int threads, void* context), void* context);

template <class Body>
void parallel(int threads, const Body& body) {
  parallel_raw(
      threads,
      [](int thread, int count, void* context) {
        (*static_cast<const Body*>(context))(thread, count);
      },
      const_cast<Body*>(&body));
}

struct Range {
  std::int64_t begin, end;
};

// Part `index` of `parts` nearly equal parts of 0..count.
constexpr Range part_of(std::int64_t count, std::int64_t index, std::int64_t parts) {
  return {count / parts * index + (index < count % parts ? index : count % parts),
          count / parts * (index + 1) + (index + 1 < count % parts ? index + 1 : count % parts)};
}

}  // namespace skd
