// skd-check: the differential test engine. Runs random problems of every operation on every
// instruction set that this CPU has, against the reference. Exit code 0: all passed, and each
// operation ran on each instruction set; 1: a failure, with one line that repeats it; 2: usage.
#include <array>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <exception>
#include <optional>
#include <string>
#include <vector>

#include "check/crash.h"
#include "check/mutants.h"
#include "check/runner.h"
#include "core/check.h"
#include "dispatch/dispatch.h"

namespace skd::check {
namespace {

// At least so many of an operation's problems with any results must be able to tell a difference:
// half of their results are not what a kernel that does nothing would give.
constexpr int kTellingPercent = 40;
// At least so many problems of a whole layer must really have run on several threads; the others
// are small, or ask for one.
constexpr int kThreadedPercent = 5;
// Fewer problems than this on an instruction set need not reach every operation.
constexpr std::uint64_t kSmallRun = 1000;

struct Options {
  std::string isa = "all", mutant, op;
  std::uint64_t problems = 20000;  // over all instruction sets together
  std::uint64_t seed = 1;
  std::optional<std::uint64_t> only;
  bool list = false;
};

constexpr const char* kUsage =
    "skd-check [--isa NAME|all] [--problems N] [--seed S] [--op NAME] [--only INDEX]\n"
    "          [--mutant NAME] [--list]\n"
    "  Checks the kernels against the reference. N problems in all (default 20000), shared among\n"
    "  the instruction sets. --op leaves out those of all other operations, --only runs one "
    "problem\n"
    "  again, --mutant breaks a kernel on purpose, --list prints the names.\n";

std::uint64_t number_of(const std::string& option, const std::string& text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  require(error == std::errc() && end == text.data() + text.size(), option, ": '", text,
          "', expected a whole number");
  return number;
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--list") {
      options.list = true;
      continue;
    }
    require(i + 1 < argc, "option '", option, "' is unknown or lacks its value");
    const std::string value = argv[++i];
    if (option == "--isa") {
      options.isa = value;
    } else if (option == "--problems") {
      options.problems = number_of(option, value);
    } else if (option == "--seed") {
      options.seed = number_of(option, value);
    } else if (option == "--only") {
      options.only = number_of(option, value);
    } else if (option == "--op") {
      options.op = value;
      bool known = false;
      for (int op = 0; op < kOps; ++op) known = known || value == name_of(static_cast<Op>(op));
      require(known, "unknown operation '", value, "'; --list prints those there are");
    } else if (option == "--mutant") {
      options.mutant = value;
    } else {
      throw Error("unknown option '" + option + "'");
    }
  }
  return options;
}

// Instruction sets that the compiler's own detection finds: the witness against a dispatcher that
// has lost one.
std::vector<std::string> expected_isas() {
  std::vector<std::string> names = {"scalar"};
#if defined(SKD_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  if (avx2) names.emplace_back("avx2");
  if (avx512) names.emplace_back("avx512");
  if (vnni) names.emplace_back("avx512_vnni");
  const bool vbmi = vnni && __builtin_cpu_supports("avx512vbmi");
  if (vbmi) names.emplace_back("avx512_vbmi");
  if (vbmi && __builtin_cpu_supports("avx512bf16")) names.emplace_back("avx512_bf16");
#endif
  return names;
}

std::string repro_line(const Options& options, const std::string& isa, std::uint64_t index,
                       const Problem& problem) {
  std::string line = "FAIL: skd-check --isa " + isa + " --seed " + std::to_string(options.seed) +
                     " --only " + std::to_string(index);
  if (!options.mutant.empty()) line += " --mutant " + options.mutant;
  return line + "  # " + describe(problem) + ": ";
}

// What ran on one instruction set, by operation.
struct Count {
  std::int64_t problems = 0, empty = 0, telling = 0, threaded = 0, results = 0;
};
using Tally = std::array<Count, kOps>;

// True if problem `index` passes; otherwise the line that repeats it has been printed.
bool passes(const Options& options, const std::string& isa, std::uint64_t index,
            const Subject& subject, Tally& tally) {
  const Problem problem = make_problem(options.seed, index);
  const std::string line = repro_line(options, isa, index, problem);
  set_crash_line(line);
  std::string what;
  try {
    const Coverage coverage = run(problem, subject);
    Count& count = tally[static_cast<std::size_t>(problem.op)];
    ++count.problems;
    count.results += coverage.results;
    count.empty += coverage.results == 0;
    count.threaded += coverage.threaded;
    count.telling += coverage.telling > 0 && 2 * coverage.telling >= coverage.results;
    return true;
  } catch (const std::exception& error) {
    what = error.what();
  }
  std::printf("%s%s\n", line.c_str(), what.c_str());
  return false;
}

// Prints what ran; false if an operation was left out or its results could not have told much.
bool report(const Options& options, const std::string& isa, std::uint64_t problems,
            const Tally& tally) {
  std::printf("%s: %llu problems\n", isa.c_str(), static_cast<unsigned long long>(problems));
  bool enough = true;
  for (int op = 0; op < kOps; ++op) {
    const Count& c = tally[static_cast<std::size_t>(op)];
    const char* name = name_of(static_cast<Op>(op));
    if (!options.op.empty() && options.op != name) continue;
    std::printf("  %-20s %6lld problems, %6lld telling, %5lld threaded, %10lld results\n", name,
                static_cast<long long>(c.problems), static_cast<long long>(c.telling),
                static_cast<long long>(c.threaded), static_cast<long long>(c.results));
    if (problems < kSmallRun) continue;
    if (c.problems == 0) std::printf("FAIL: no problem of %s ran on %s\n", name, isa.c_str());
    // A sparse weight is mostly zeros: of the formats, that is no fault.
    const bool tells = is_format(static_cast<Op>(op)) ||
                       100 * c.telling >= kTellingPercent * (c.problems - c.empty);
    if (!tells) std::printf("FAIL: too few problems of %s could tell a difference\n", name);
    const bool layer = is_linear(static_cast<Op>(op)) || is_conv(static_cast<Op>(op));
    const bool threads = !layer || 100 * c.threaded >= kThreadedPercent * c.problems;
    if (!threads) std::printf("FAIL: too few problems of %s used several threads\n", name);
    enough = enough && c.problems > 0 && tells && threads;
  }
  return enough;
}

// No table may borrow the scalar kernels: it would be tested, and slow.
bool is_complete(const KernelTable& t) {
  const KernelTable& s = kScalarTable;
  const auto own = [&](auto entry) { return t.*entry != s.*entry; };
  const bool complete =
      &t == &s ||
      (own(&KernelTable::quantize_dynamic_s8) && own(&KernelTable::quantize_static_u8) &&
       own(&KernelTable::dequantize_u8) && own(&KernelTable::max_pool_u8) &&
       own(&KernelTable::max_pool_f32) && own(&KernelTable::average_pool_u8) &&
       own(&KernelTable::average_pool_f32) && own(&KernelTable::add_u8) &&
       own(&KernelTable::linear_windowed_s8) && own(&KernelTable::linear_dense_s8) &&
       own(&KernelTable::epilogue_fp32) && own(&KernelTable::absolute_maximum) &&
       own(&KernelTable::depthwise_s8) && own(&KernelTable::depthwise_f32) &&
       own(&KernelTable::epilogue_sums) && own(&KernelTable::linear_windowed_f32) &&
       own(&KernelTable::linear_windowed_bf16) && own(&KernelTable::to_bf16) &&
       own(&KernelTable::linear_csr_f32) && own(&KernelTable::transpose_f32));
  if (!complete) std::printf("FAIL: the table of %s borrows a scalar kernel\n", t.name);
  return complete;
}

// Which of the instruction sets problem `index` runs on: in turn, but of the problems in integers
// avx512_bf16 gets a quarter of its turns, since it has those kernels from avx512_vbmi.
std::size_t turn_of(std::uint64_t index, const Problem& problem,
                    const std::vector<std::string>& isas) {
  const std::uint64_t count = isas.size(), turn = index % count, round = index / count;
  const bool repeats = isas[turn] == "avx512_bf16" && !is_float(problem.op);
  if (!repeats || count == 1 || round % 4 == 0) return turn;
  return (turn + 1 + round % (count - 1)) % count;
}

bool check_isa(const Options& options, const std::vector<std::string>& isas, std::size_t turn,
               GuardedMemory& memory) {
  const std::string& isa = isas[turn];
  const KernelTable& real = table(isa);
  const KernelTable tested = options.mutant.empty() ? real : mutate(real, options.mutant);
  const Subject subject{tested, &real == &kScalarTable, memory};
  if (!is_complete(real)) return false;
  Tally tally{};
  if (options.only) return passes(options, isa, *options.only, subject, tally);
  std::uint64_t problems = 0;
  for (std::uint64_t index = 0; index < options.problems; ++index) {
    const Problem problem = make_problem(options.seed, index);
    if (!options.op.empty() && options.op != name_of(problem.op)) continue;
    if (turn_of(index, problem, isas) != turn) continue;
    ++problems;
    if (!passes(options, isa, index, subject, tally)) return false;
  }
  return report(options, isa, problems, tally);
}

bool check(const Options& options, GuardedMemory& memory) {
  for (const std::string& expected : expected_isas()) {
    bool found = false;
    for (const std::string& isa : available_isas()) found = found || isa == expected;
    if (!found) {
      std::printf("FAIL: this CPU has %s, but dispatch does not offer it\n", expected.c_str());
      return false;
    }
  }
  std::vector<std::string> isas = available_isas();
  if (options.isa != "all") isas = {options.isa};
  std::string exercised;
  for (std::size_t i = 0; i < isas.size(); ++i) {
    if (!check_isa(options, isas, i, memory)) return false;
    exercised += (exercised.empty() ? "" : ", ") + isas[i];
  }
  const std::uint64_t problems = options.only ? isas.size() : options.problems;
  std::printf("passed: %llu problems on %s\n", static_cast<unsigned long long>(problems),
              exercised.c_str());
  return true;
}

void list() {
  for (const std::string& isa : known_isas()) std::printf("known isa: %s\n", isa.c_str());
  for (const std::string& isa : available_isas()) std::printf("available isa: %s\n", isa.c_str());
  for (int op = 0; op < kOps; ++op) std::printf("operation: %s\n", name_of(static_cast<Op>(op)));
  for (const Mutant& mutant : all_mutants()) std::printf("mutant: %s\n", mutant.name);
}

int run_main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 1 << 12);  // the crash handler writes past stdio's buffer
  try {
    const Options options = parse(argc, argv);
    if (options.list) {
      list();
      return 0;
    }
    GuardedMemory memory;
    catch_crashes(memory);
    return check(options, memory) ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "skd-check: %s\n%s", error.what(), kUsage);
    return 2;
  }
}

}  // namespace
}  // namespace skd::check

int main(int argc, char** argv) { return skd::check::run_main(argc, argv); }
