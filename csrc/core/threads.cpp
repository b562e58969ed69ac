#include "core/threads.h"

#include <omp.h>
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include <atomic>

#include "core/check.h"
#include "core/fpenv.h"

namespace skd {
namespace {

std::atomic<bool> in_forked_child{false};

#if defined(__unix__) || defined(__APPLE__)
const int fork_watch = pthread_atfork(
    nullptr, nullptr, [] { in_forked_child.store(true, std::memory_order_relaxed); });
#endif

}  // namespace

int usable_threads(int requested) {
  require(requested >= 1, "thread count ", requested, ", expected at least 1");
  if (omp_in_parallel() != 0 || in_forked_child.load(std::memory_order_relaxed)) return 1;
  return requested;
}

void barrier() {
#pragma omp barrier
}

void parallel_raw(int threads, void (*body)(int, int, void*), void* context) {
  if (threads == 1) {
    const DefaultFloatEnvironment environment;
    body(0, 1, context);
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    const DefaultFloatEnvironment environment;
    body(omp_get_thread_num(), omp_get_num_threads(), context);
  }
}

}  // namespace skd
