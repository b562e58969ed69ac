#include "check/problem.h"

#include <algorithm>
#include <sstream>

#include "check/pick.h"

namespace skd::check {
namespace {

struct OpFacts {
  const char* name;
  int share;  // of all problems
};
// In the order of Op. The refusals are dear and say the same each time, so they are rare.
constexpr OpFacts kOpFacts[kOps] = {
    {"quantize_dynamic_s8", 11}, {"quantize_static_u8", 11},  {"tile_windowed_s8", 19},
    {"tile_dense_s8", 14},       {"epilogue_fp32", 12},       {"linear_windowed_s8", 16},
    {"linear_dense_s8", 10},     {"format_windowed_s8", 4},   {"format_dense_s8", 2},
    {"refuse_linear_s8", 3},     {"conv_windowed_s8", 8},     {"conv_dense_s8", 6},
    {"conv_depthwise_s8", 5},    {"tile_windowed_f32", 8},    {"tile_windowed_bf16", 7},
    {"linear_windowed_f32", 11}, {"linear_windowed_bf16", 8}, {"format_windowed_f32", 3},
    {"format_windowed_bf16", 2}, {"linear_csr_f32", 10},      {"format_csr_f32", 3},
    {"conv_windowed_f32", 7},    {"conv_windowed_bf16", 5},   {"conv_depthwise_f32", 5},
    {"tile_depthwise_s8", 4},    {"tile_depthwise_f32", 4},   {"tile_csr_f32", 6},
    {"epilogue_sums", 5},        {"transpose_f32", 3},        {"to_bf16", 4},
    {"absolute_maximum", 2},     {"refuse_conv", 2},          {"dequantize_u8", 2},
    {"max_pool_u8", 4},          {"max_pool_f32", 3},         {"avg_pool_u8", 4},
    {"avg_pool_f32", 3},         {"add_images", 4},
};
static_assert(kOpFacts[kOps - 1].share > 0, "an operation without a share would never run");

constexpr const char* kMaskNames[] = {"full",       "empty",  "nm32", "nm64",    "random",
                                      "one-output", "ragged", "half", "quarter", "last-input"};
constexpr const char* kWeightNames[] = {"any", "small", "extremes", "all-127"};
constexpr const char* kByteNames[] = {"any", "small", "extremes", "all-255"};
constexpr const char* kFloatNames[] = {"normal",    "integers", "ties", "wide", "zeros", "tiny",
                                       "subnormal", "nan",      "inf",  "huge", "mixed"};
constexpr const char* kActivationNames[] = {"none", "relu", "gelu", "silu", "relu6", "hardswish"};
constexpr const char* kEnvironmentNames[] = {"standard", "flush",       "upward",
                                             "downward", "toward-zero", "flush+upward"};

Op pick_op(Random& random) {
  std::int64_t all = 0;
  for (const OpFacts& op : kOpFacts) all += op.share;
  std::int64_t ticket = random.in(0, all - 1);
  for (int op = 0; op < kOps; ++op) {
    ticket -= kOpFacts[op].share;
    if (ticket < 0) return static_cast<Op>(op);
  }
  return Op::quantize_dynamic_s8;
}

std::int64_t pick_budget(Random& random) { return random.percent(5) ? 3000000 : 200000; }

// Keeps rows * outputs * inputs * taps, the work of the reference, near a budget that is small for
// most problems: the smaller of outputs and inputs gives way first, then rows, then the larger.
void limit_work(Problem& p, std::int64_t budget) {
  const auto work = [&] {
    return std::max<std::int64_t>(p.rows, 1) * p.outputs * p.inputs * p.taps;
  };
  if (work() > budget) {
    std::int64_t& smaller = p.outputs < p.inputs ? p.outputs : p.inputs;
    smaller = std::clamp<std::int64_t>(smaller * budget / work(),
                                       std::min<std::int64_t>(smaller, 17), smaller);
  }
  while (work() > budget && p.rows > 1) p.rows = p.rows / 2;
  while (work() > 8 * budget) (p.outputs < p.inputs ? p.inputs : p.outputs) /= 2;
}

void pick_output(Random& random, Problem& p) {
  pick_activation(random, p);
  if (random.percent(40)) p.out_gap = random.in(1, 37);
}

void pick_tile(Random& random, Problem& p) {
  p.rows = random.in(1, kMaxTileRows);
  p.taps = random.percent(60) ? 1 : static_cast<int>(random.in(2, 4));
  p.same_rows = random.percent(8);
  pick_weights(random, p);
  pick_bytes(random, p);
  if (is_float(p.op)) pick_floats(random, p);
  limit_work(p, pick_budget(random));
  const std::int64_t slices = (p.outputs + kLanes - 1) / kLanes;
  p.slice_count = random.percent(60) ? slices : random.in(1, slices);
  p.first_slice = random.in(0, slices - p.slice_count);
  // The operations above keep sums on whole cache lines, which the contract does not ask for.
  p.out_gap = random.pick<std::int64_t>({0, 0, 16, 32, 1, 7});
}

void pick_depthwise_tile(Random& random, Problem& p) {
  p.rows = random.in(1, kMaxTileRows);
  p.taps = static_cast<int>(random.pick<std::int64_t>({1, 9, 9, 25, random.in(1, 12)}));
  p.same_rows = random.percent(8);
  p.inputs = 1;
  p.outputs = pick_size(random, 700);
  p.mask = random.percent(70) ? Mask::full : Mask::random;
  p.mask_n = p.mask == Mask::random ? 50 : 0;
  pick_bytes(random, p);
  if (is_float(p.op)) pick_floats(random, p);
  limit_work(p, pick_budget(random));
  const std::int64_t slices = (p.outputs + kLanes - 1) / kLanes;
  p.first_slice = random.percent(50) ? 0 : random.in(0, slices - 1);
  if (!is_float(p.op)) p.first_slice -= p.first_slice % (kDepthwiseChannels / kLanes);
  p.slice_count = random.in(1, slices - p.first_slice);
  p.out_gap = random.pick<std::int64_t>({0, 0, 16, 1, 7});
}

void pick_format(Random& random, Problem& p) {
  p.taps = is_csr(p.op) || random.percent(60) ? 1 : static_cast<int>(random.in(2, 4));
  p.groups = is_csr(p.op) || random.percent(60) ? 1 : random.in(2, 5);
  p.outputs = random.percent(4) ? 0 : p.outputs;
  p.inputs = random.percent(4) ? 0 : p.inputs;
  pick_weights(random, p);
  limit_work(p, pick_budget(random) / p.groups);
  p.outputs *= p.groups;
}

void pick_csr_tile(Random& random, Problem& p) {
  const std::int64_t panel_rows = random.pick<std::int64_t>({1, 1, 16, 32, 48, 64});
  if (random.percent(50)) p.inputs = random.pick<std::int64_t>({128, 256, 512}) + random.in(-1, 1);
  pick_weights(random, p);
  pick_floats(random, p);
  limit_work(p, (random.percent(10) ? 4000000 : 400000) / panel_rows);
  p.rows = panel_rows;  // other counts there are not
  if (random.percent(2)) p.inputs = 0;
}

void pick_linear(Random& random, Problem& p) {
  p.rows = random.percent(2) ? random.in(34, 140) : random.in(0, 33);
  if (is_csr(p.op) && random.percent(60)) {  // beside panels of 16 to 64 rows and blocks of inputs
    p.rows = random.pick<std::int64_t>({0, 1, 2, 15, 16, 17, 33, 48, 49, 64, 65, 129});
    p.inputs = random.pick<std::int64_t>({128, 256, 512, 1024}) + random.in(-1, 1);
    p.outputs = random.pick<std::int64_t>({64, 128}) + random.in(-1, 1);
  }
  p.threads = static_cast<int>(random.in(1, 3));
  p.dynamic = random.percent(60);
  pick_weights(random, p);
  pick_floats(random, p);
  pick_output(random, p);
  p.zero_point = p.dynamic ? 128 : random.pick({0, 1, 77, 128, 200, 255});
  if (random.percent(40)) p.in_gap = random.in(1, 37);
  if (is_csr(p.op)) {
    limit_work(p, random.percent(10) ? 8000000 : 600000);
  } else if (random.percent(36)) {  // work for several threads, which share slices or rows
    p.threads = static_cast<int>(random.in(2, 3));
    p.rows = random.percent(50) ? random.in(1, 15) : random.in(16, 70);
    p.outputs = random.in(200, 1600);
    p.inputs = random.in(100, 800);
    limit_work(p, 8000000);
  } else {
    limit_work(p, pick_budget(random));
  }
  if (random.percent(3)) p.inputs = 0;
  if (random.percent(2)) p.outputs = 0;
  p.same_rows = random.percent(4);
  if (p.rows > 0 && random.percent(30)) p.split = random.in(0, p.rows);
  pick_environment(random, p);
}

}  // namespace

const char* name_of(Op op) { return kOpFacts[static_cast<int>(op)].name; }

Problem make_problem(std::uint64_t seed, std::uint64_t index) {
  Random random(seed, index);
  Problem p;
  p.op = pick_op(random);
  p.inputs = pick_size(random, 4200);
  p.outputs = pick_size(random, 4200);
  if (has_float_windows(p.op) && !is_bf16(p.op)) p.window = random.pick({16, 32});
  switch (p.op) {
    case Op::quantize_dynamic_s8:
    case Op::to_bf16:
    case Op::absolute_maximum:
      pick_floats(random, p);
      if (random.percent(1)) p.inputs = 0;
      break;
    case Op::max_pool_u8:
    case Op::max_pool_f32:
    case Op::avg_pool_u8:
    case Op::avg_pool_f32:
      pick_pool(random, p);
      break;
    case Op::add_images:
      pick_add(random, p);
      break;
    case Op::dequantize_u8:
      pick_bytes(random, p);
      if (random.percent(1)) p.inputs = 0;
      break;
    case Op::quantize_static_u8:
      pick_floats(random, p);
      if (random.percent(1)) p.inputs = 0;
      p.zero_point = static_cast<std::int32_t>(
          random.percent(70) ? random.pick({0, 1, 77, 128, 200, 255}) : random.in(0, 255));
      break;
    case Op::tile_windowed_s8:
    case Op::tile_dense_s8:
    case Op::tile_windowed_f32:
    case Op::tile_windowed_bf16:
      pick_tile(random, p);
      break;
    case Op::tile_depthwise_s8:
    case Op::tile_depthwise_f32:
      pick_depthwise_tile(random, p);
      break;
    case Op::tile_csr_f32:
      pick_csr_tile(random, p);
      break;
    case Op::transpose_f32:
      p.rows = random.percent(2) ? 0 : pick_size(random, 200);
      p.inputs = random.percent(2) ? 0 : std::min<std::int64_t>(p.inputs, 400);
      if (random.percent(50)) p.in_gap = random.in(1, 37);
      if (random.percent(50)) p.out_gap = random.pick<std::int64_t>({16, 32, 1, 5});
      break;
    case Op::epilogue_sums:
      p.rows = random.in(1, 2 * kMaxTileRows);
      pick_floats(random, p);
      pick_output(random, p);
      p.in_gap = random.pick<std::int64_t>({0, 0, 16, 1, 5});
      p.ordered = random.percent(50);
      p.residual = random.percent(30) ? Residual::f32 : Residual::none;
      break;
    case Op::epilogue_fp32:
      p.rows = random.in(1, kMaxTileRows);
      pick_output(random, p);
      p.in_gap = random.pick<std::int64_t>({0, 0, 16, 1, 5});
      p.ordered = random.percent(50);
      p.residual = random.percent(30) ? Residual::f32 : Residual::none;
      break;
    case Op::linear_windowed_s8:
    case Op::linear_dense_s8:
    case Op::linear_windowed_f32:
    case Op::linear_windowed_bf16:
    case Op::linear_csr_f32:
      pick_linear(random, p);
      break;
    case Op::format_windowed_s8:
    case Op::format_dense_s8:
    case Op::format_windowed_f32:
    case Op::format_windowed_bf16:
    case Op::format_csr_f32:
      pick_format(random, p);
      break;
    case Op::refuse_conv:
      break;
    case Op::refuse_linear_s8:
      p.dynamic = random.percent(40);
      p.zero_point = p.dynamic ? 128 : random.pick({0, 1, 77, 128, 200, 255});
      break;
    case Op::conv_windowed_s8:
    case Op::conv_dense_s8:
    case Op::conv_depthwise_s8:
    case Op::conv_windowed_f32:
    case Op::conv_windowed_bf16:
    case Op::conv_depthwise_f32:
      pick_conv(random, p);
      break;
  }
  if (is_windowed(p.op) && !is_tile(p.op)) p.ordered = random.percent(50);
  p.seed = random.next();
  return p;
}

std::string describe(const Problem& p) {
  const auto index = [](auto choice) { return static_cast<std::size_t>(choice); };
  const bool tile = is_tile(p.op), linear = is_linear(p.op), conv = is_conv(p.op);
  const bool dequantize = p.op == Op::dequantize_u8;
  const bool vector = is_vector(p.op), sums = p.op == Op::epilogue_sums;
  const bool zero_point = linear || conv || tile || dequantize || p.op == Op::quantize_static_u8 ||
                          p.op == Op::refuse_linear_s8;
  std::ostringstream text;
  text << name_of(p.op) << ' ';
  if (vector || dequantize) {
    text << p.inputs;
  } else if (p.op == Op::epilogue_fp32 || sums) {
    text << p.rows << 'x' << p.outputs;
  } else if (p.op == Op::transpose_f32) {
    text << p.rows << 'x' << p.inputs;
  } else if (is_pool(p.op)) {
    text << describe_pool(p);
  } else if (p.op == Op::add_images) {
    text << p.inputs << (p.images.u8_in ? " u8" : " f32") << (p.images.u8_out ? "->u8" : "->f32");
  } else if (conv) {
    text << describe_images(p);
  } else if (p.op != Op::refuse_linear_s8 && p.op != Op::refuse_conv) {
    text << p.rows << 'x' << p.inputs << "->" << p.outputs;
  }
  if (p.taps > 1 && !conv) text << " taps=" << p.taps;
  if (p.groups > 1) text << " groups=" << p.groups;
  if (tile) text << " slices=" << p.first_slice << '+' << p.slice_count;
  if (tile || linear || conv || is_format(p.op) || p.op == Op::tile_csr_f32) {
    text << " mask=" << kMaskNames[index(p.mask)];
    if (p.mask_n > 0) text << ':' << p.mask_n;
    text << " weights=" << kWeightNames[index(p.weights)];
  }
  const bool floats = is_float(p.op);
  if (has_float_windows(p.op)) text << " window=" << p.window;
  if ((tile && !floats) || (conv && p.images.u8_in))
    text << " bytes=" << kByteNames[index(p.bytes)];
  if (vector || linear || sums || is_csr(p.op) || (tile && floats) || (conv && !p.images.u8_in))
    text << " x=" << kFloatNames[index(p.floats)];
  if ((linear || conv) && !floats) text << (p.dynamic ? " dynamic" : " static");
  if (!floats && zero_point) text << " zp=" << p.zero_point;
  if (p.bias) text << " bias";
  if (p.residual != Residual::none) text << (p.residual == Residual::u8 ? " +u8" : " +f32");
  if (p.activation != Activation::none) text << ' ' << kActivationNames[index(p.activation)];
  if (p.in_gap > 0) text << " in+" << p.in_gap;
  if (p.out_gap > 0) text << " out+" << p.out_gap;
  if (p.split > 0) text << " split=" << p.split;
  if (linear || conv) text << " threads=" << p.threads;
  if (p.environment != Environment::standard)
    text << ' ' << kEnvironmentNames[index(p.environment)];
  if (p.same_rows) text << " same-rows";
  if (p.ordered) text << " ordered";
  return text.str();
}

}  // namespace skd::check
