#include "check/crash.h"

#include <signal.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

namespace skd::check {
namespace {

// Everything that the handler touches is static: no allocation, no locks, no stdio in there.
constexpr std::size_t kLongest = 2000;
char crash_line[kLongest];
std::size_t crash_line_size = 0;
const GuardedMemory* guarded = nullptr;
alignas(64) char handler_stack[256 << 10];

class Message {
 public:
  void add(const char* text, std::size_t size) {
    if (size > sizeof(text_) - size_) size = sizeof(text_) - size_;
    std::memcpy(text_ + size_, text, size);
    size_ += size;
  }
  void add(const char* text) { add(text, std::strlen(text)); }
  void add(std::int64_t number) {
    char digits[24];
    std::size_t first = sizeof(digits);
    std::uint64_t rest = static_cast<std::uint64_t>(number < 0 ? -number : number);
    do {
      digits[--first] = static_cast<char>('0' + rest % 10);
      rest /= 10;
    } while (rest > 0);
    add(digits + first, sizeof(digits) - first);
  }
  void write_to(int file) const {
    std::size_t done = 0;
    while (done < size_) {
      const ssize_t wrote = write(file, text_ + done, size_ - done);
      if (wrote <= 0) return;
      done += static_cast<std::size_t>(wrote);
    }
  }

 private:
  char text_[kLongest + 400];
  std::size_t size_ = 0;
};

const char* name_of_signal(int number) {
  switch (number) {
    case SIGSEGV:
      return "SIGSEGV";
    case SIGBUS:
      return "SIGBUS";
    case SIGILL:
      return "SIGILL";
    default:
      return "SIGFPE";
  }
}

extern "C" void on_crash(int number, siginfo_t* info, void*) {
  Message message;
  message.add(crash_line, crash_line_size);
  message.add(name_of_signal(number));
  std::int64_t distance = 0;
  const char* operand = nullptr;
  if (number == SIGSEGV && guarded != nullptr) {
    operand = guarded->guard_of(info->si_addr, &distance);
  }
  if (operand != nullptr) {
    message.add(": ");
    message.add(distance);
    message.add(distance < 0 ? " bytes before the start of " : " bytes past the end of ");
    message.add(operand);
  }
  message.add("\n");
  message.write_to(STDOUT_FILENO);
  _exit(1);
}

}  // namespace

void catch_crashes(const GuardedMemory& memory) {
  guarded = &memory;
  stack_t stack{};
  stack.ss_sp = handler_stack;
  stack.ss_size = sizeof(handler_stack);
  sigaltstack(&stack, nullptr);
  struct sigaction action{};
  action.sa_sigaction = on_crash;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  for (const int number : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) sigaction(number, &action, nullptr);
}

void set_crash_line(const std::string& line) {
  crash_line_size = line.size() < kLongest ? line.size() : kLongest;
  std::memcpy(crash_line, line.data(), crash_line_size);
}

}  // namespace skd::check
