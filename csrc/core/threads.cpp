#include "core/threads.h"

#include <omp.h>
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include <atomic>

#include "core/check.h"
#include "core/fpenv.h"
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace skd {
namespace {

std::atomic<bool> in_forked_child{false};

#if defined(__unix__) || defined(__APPLE__)
const int fork_watch = pthread_atfork(
    nullptr, nullptr, [] { in_forked_child.store(true, std::memory_order_relaxed); });
#endif

#if defined(__SANITIZE_THREAD__)
// ThreadSanitizer does not see inside libgomp, so that it takes every barrier and every start of a
// team for a race. It is told of them here; what the team does in between is what it watches.
thread_local char* team = nullptr;  // an address that stands for the team

void arrive() { __tsan_release(team); }
void leave() { __tsan_acquire(team); }

struct Team {
  int threads;
  void (*body)(int, int, void*);
  void* context;
  char token = 0;

  void run() {
    char* const outer = team;
    team = &token;
    arrive();
    start(this);
    leave();
    team = outer;
  }

 private:
  // The compiler's own hand-over to the threads of the team, which no annotation reaches.
  __attribute__((no_sanitize("thread"), noinline)) static void start(Team* self) {
#pragma omp parallel num_threads(self->threads)
    self->member(omp_get_thread_num(), omp_get_num_threads());
  }
  __attribute__((no_sanitize("thread"), noinline)) void member(int thread, int count) {
    char* const outer = team;
    team = &token;
    leave();
    {
      const DefaultFloatEnvironment environment;
      body(thread, count, context);
    }
    arrive();
    team = outer;
  }
};
#endif

}  // namespace

int usable_threads(int requested) {
  require(requested >= 1, "thread count ", requested, ", expected at least 1");
  if (omp_in_parallel() != 0 || in_forked_child.load(std::memory_order_relaxed)) return 1;
  return requested;
}

void barrier() {
#if defined(__SANITIZE_THREAD__)
  if (team != nullptr) arrive();
#endif
#pragma omp barrier
#if defined(__SANITIZE_THREAD__)
  if (team != nullptr) leave();
#endif
}

void parallel_raw(int threads, void (*body)(int, int, void*), void* context) {
  if (threads == 1) {
    const DefaultFloatEnvironment environment;
    body(0, 1, context);
    return;
  }
#if defined(__SANITIZE_THREAD__)
  return Team{threads, body, context}.run();
#endif
#pragma omp parallel num_threads(threads)
  {
    const DefaultFloatEnvironment environment;
    body(omp_get_thread_num(), omp_get_num_threads(), context);
  }
}

}  // namespace skd
