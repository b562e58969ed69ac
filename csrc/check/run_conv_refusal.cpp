// Convolutions that must be refused, with a sentence that names what is wrong, and before a byte of
// an image is touched: absurd geometry, weights that do not fit it, images that do not fit. What
// lies just inside the limits must run.
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "check/conv_images.h"
#include "check/runner.h"
#include "core/check.h"

namespace skd::check {
namespace {

constexpr std::int64_t kLeast = std::numeric_limits<std::int64_t>::min();
constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kLimit = 1 << 20;  // of channels, strides, dilations and padding
constexpr ConvGeometry kGood = {4, 6, 2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1};
constexpr ConvGeometry kDepthwise = {4, 4, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1};

enum class Kind : int { windowed_s8, dense_s8, depthwise_s8, windowed_f32, bf16, depthwise_f32 };
constexpr Kind kKinds[] = {Kind::windowed_s8,  Kind::dense_s8, Kind::depthwise_s8,
                           Kind::windowed_f32, Kind::bf16,     Kind::depthwise_f32};

bool is_depthwise(Kind kind) { return kind == Kind::depthwise_s8 || kind == Kind::depthwise_f32; }
bool is_s8(Kind kind) { return kind <= Kind::depthwise_s8; }

// What a weight is made for; all its values are 1.
struct WeightShape {
  std::int64_t outputs, inputs, groups;
  int taps;

  static WeightShape of(const ConvGeometry& g) {
    return {g.out_channels, g.tap_inputs(), g.groups, g.taps()};
  }
  std::size_t count() const { return size(outputs * inputs * taps); }
};

Conv2dS8 make_s8(Kind kind, const WeightShape& w, const ConvGeometry& g, bool dynamic) {
  const std::vector<std::int8_t> ones(w.count(), 1);
  const std::vector<float> scales(size(w.outputs), 1.0f);
  const auto layer = [&](Conv2dS8::Weight weight) {
    return Conv2dS8(std::move(weight), g, scales.data(), nullptr, {dynamic, 1.0f, 7},
                    Activation::none);
  };
  if (kind == Kind::windowed_s8) {
    const WindowedShape shape{w.outputs, w.inputs, kWindow, w.taps, w.groups};
    return layer(WindowedS8Weight::pack(ones.data(), shape));
  }
  if (kind == Kind::dense_s8) {
    return layer(DenseS8Weight::pack(ones.data(), w.outputs, w.inputs, w.taps, w.groups));
  }
  return layer(DepthwiseS8Weight(ones.data(), w.outputs, w.taps));
}

Conv2dFloat make_float(Kind kind, const WeightShape& w, const ConvGeometry& g) {
  const auto layer = [&](Conv2dFloat::Weight weight) {
    return Conv2dFloat(std::move(weight), g, nullptr, Activation::none);
  };
  const std::vector<float> ones(w.count(), 1.0f);
  if (kind == Kind::windowed_f32) {
    const WindowedShape shape{w.outputs, w.inputs, 16, w.taps, w.groups};
    return layer(WindowedF32Weight::pack(ones.data(), shape));
  }
  if (kind == Kind::bf16) {
    const std::vector<std::uint16_t> bits(w.count(), bf16_from_float(1.0f));
    const WindowedShape shape{w.outputs, w.inputs, 32, w.taps, w.groups};
    return layer(WindowedBf16Weight::pack(bits.data(), shape));
  }
  return layer(DepthwiseF32Weight(ones.data(), w.outputs, w.taps));
}

void make(Kind kind, const WeightShape& w, const ConvGeometry& g) {
  is_s8(kind) ? static_cast<void>(make_s8(kind, w, g, true))
              : static_cast<void>(make_float(kind, w, g));
}

struct Call {
  ConvInput x;
  ConvOutput y;
};

void run(Kind kind, const ConvGeometry& g, bool dynamic, const Call& call,
         const KernelTable& table) {
  const WeightShape shape = WeightShape::of(g);
  if (is_s8(kind)) {
    make_s8(kind, shape, g, dynamic).forward(call.x, call.y, 2, &table);
  } else {
    make_float(kind, shape, g).forward(call.x, call.y, 2, &table);
  }
}

// Throws Failure unless body() throws a skd::Error whose text has `words` in it.
template <class Body>
void expect_refused(Kind kind, const std::string& words, const std::string& what,
                    const Body& body) {
  std::string message = "nothing was refused";
  try {
    body();
  } catch (const Error& error) {
    message = error.what();
  }
  expect(message.find(words) != std::string::npos, "kind ", static_cast<int>(kind), ", ", what,
         ": '", message, "', expected a sentence on '", words, "'");
}

void refuse_geometry(Kind kind, const ConvGeometry& good) {
  using Field = std::int64_t ConvGeometry::*;
  const auto refuse = [&](Field field, const char* words, std::int64_t value) {
    ConvGeometry bad = good;
    bad.*field = value;
    expect_refused(kind, words, std::to_string(value),
                   [&] { make(kind, WeightShape::of(good), bad); });
  };
  for (const std::int64_t value : {kLeast, std::int64_t{-1}, std::int64_t{0}, kLimit + 1, kMost}) {
    refuse(&ConvGeometry::groups, "groups", value);
    refuse(&ConvGeometry::in_channels, "in_channels", value);
    refuse(&ConvGeometry::out_channels, "out_channels", value);
    for (const Field field : {&ConvGeometry::kernel_h, &ConvGeometry::kernel_w}) {
      refuse(field, "kernel_size", value);
    }
    for (const Field field : {&ConvGeometry::stride_h, &ConvGeometry::stride_w}) {
      refuse(field, "stride", value);
    }
    for (const Field field : {&ConvGeometry::dilation_h, &ConvGeometry::dilation_w}) {
      refuse(field, "dilation", value);
    }
    for (const Field field : {&ConvGeometry::pad_top, &ConvGeometry::pad_bottom,
                              &ConvGeometry::pad_left, &ConvGeometry::pad_right}) {
      if (value != 0) refuse(field, "padding", value);
    }
  }
  refuse(&ConvGeometry::groups, "does not divide", 3);
  refuse(&ConvGeometry::kernel_h, "kernel_size", 1025);
}

// Rows of a convolution that does not read them in one piece, or whose runs are too long to patch.
void refuse_rows(Kind kind) {
  constexpr ConvGeometry kRows = {63, 6, 1, 5, 3, 1, 1, 1, 1, 0, 0, 1, 1, true};
  const auto refuse = [&](const auto& damage) {
    ConvGeometry bad = kRows;
    damage(bad);
    expect_refused(kind, "geometry rows", "rows", [&] { make(kind, WeightShape::of(bad), bad); });
  };
  refuse([](ConvGeometry& g) { g.in_channels = 64; });
  refuse([](ConvGeometry& g) { g.groups = 3; });
  refuse([](ConvGeometry& g) { g.dilation_w = 2; });
  refuse([](ConvGeometry& g) { g.kernel_w = 1; });
  refuse([](ConvGeometry& g) { g.kernel_h = 6; });
  ConvGeometry good = kRows;
  make(kind, WeightShape::of(good), good);
  good.kernel_h = 60;
  good.pad_left = good.pad_right = 0;
  make(kind, WeightShape::of(good), good);
}

// A geometry that is fine, and a weight of another one.
void refuse_weights(Kind kind, const ConvGeometry& good) {
  const char* const words = "fit the convolution";
  const auto refuse = [&](const WeightShape& shape, const char* what) {
    expect_refused(kind, words, what, [&] { make(kind, shape, good); });
  };
  WeightShape other = WeightShape::of(good);
  other.taps = 8;
  refuse(other, "a tap less");
  other = WeightShape::of(good);
  other.outputs += other.groups = is_depthwise(kind) ? 1 : other.groups;
  refuse(other, "other outputs");
  if (is_depthwise(kind)) {
    expect_refused(kind, words, "one group", [&] { make(kind, WeightShape::of(good), kGood); });
    ConvGeometry rows = {1, 1, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, true};
    other = {1, 1, 1, 3};
    expect_refused(kind, words, "rows", [&] { make(kind, other, rows); });
    return;
  }
  other = WeightShape::of(good);
  ++other.inputs;
  refuse(other, "other inputs");
  ConvGeometry rows = good;
  rows.groups = 1;
  other = WeightShape::of(rows);
  rows.rows = true;
  expect_refused(kind, words, "pixels for rows", [&] { make(kind, other, rows); });
  other = WeightShape::of(good);
  other.groups = 1;
  refuse(other, "other groups");
}

void refuse_calls(Kind kind, const ConvGeometry& g, const Call& good, const KernelTable& table) {
  const auto refuse = [&](const char* words, const auto& damage) {
    Call bad = good;
    damage(bad);
    expect_refused(kind, words, "a call", [&] { run(kind, g, true, bad, table); });
  };
  for (const std::int64_t value : {kLeast, std::int64_t{-1}, kMost}) {
    refuse(value < 0 ? "batch" : "63 bits", [&](Call& c) { c.x.batch = value; });
    refuse("images", [&](Call& c) { c.x.height = value; });
    refuse("images", [&](Call& c) { c.x.width = value; });
  }
  refuse("63 bits", [](Call& c) { c.x.height = c.x.width = 1LL << 40; });
  refuse("63 bits", [](Call& c) { c.x.batch = 1LL << 62; });
  refuse("expected either", [](Call& c) { c.x.f32 = nullptr; });
  refuse("expected either", [](Call& c) { c.y.f32 = nullptr; });
  const auto bytes_in = [](Call& c) {
    c.x.u8 = reinterpret_cast<const std::uint8_t*>(c.x.f32);
    c.x.f32 = nullptr;
  };
  refuse("u8 input", [&](Call& c) { bytes_in(c), c.x.layout = Layout::nhwc; });
  refuse("u8 input", [&](Call& c) { bytes_in(c), c.x.layout = Layout::nchw; });
  const auto bytes_out = [](Call& c) {
    c.y.u8 = reinterpret_cast<std::uint8_t*>(c.y.f32);
    c.y.f32 = nullptr;
    c.y.layout = Layout::nhwc;
  };
  refuse("u8 output", [&](Call& c) { bytes_out(c), c.y.layout = Layout::nchw; });
  const auto add = [](Call& c, bool u8, Layout layout) {
    c.y.residual.u8 = u8 ? reinterpret_cast<const std::uint8_t*>(c.x.f32) : nullptr;
    c.y.residual.layout = layout;
  };
  refuse("u8 residual", [&](Call& c) { add(c, true, Layout::nchw); });
  refuse("residual", [&](Call& c) { add(c, true, Layout::nhwc), c.y.residual.f32 = c.x.f32; });
  refuse("residual scale", [&](Call& c) { add(c, true, Layout::nhwc), c.y.residual.scale = 0; });
  refuse("residual zero point",
         [&](Call& c) { add(c, true, Layout::nhwc), c.y.residual.zero_point = 256; });
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const float scale : {0.0f, -1.0f, kInf, kInf - kInf, 0x1p-121f}) {
    refuse("output scale", [&](Call& c) { bytes_out(c), c.y.scale = scale; });
  }
  for (const std::int32_t zero_point : {-1, 256, INT32_MIN, INT32_MAX}) {
    refuse("output zero point", [&](Call& c) { bytes_out(c), c.y.zero_point = zero_point; });
  }
}

// The padded image is smaller than the reach of the kernel.
void refuse_empty(Kind kind, ConvGeometry g, const Call& good, const KernelTable& table) {
  const auto refuse = [&](std::int64_t height, std::int64_t width) {
    Call bad = good;
    bad.x.height = height;
    bad.x.width = width;
    expect_refused(kind, "empty", "no output", [&] { run(kind, g, true, bad, table); });
  };
  refuse(0, 5);
  refuse(5, 0);
  g.dilation_h = g.dilation_w = kLimit;
  refuse(5, 5);
  g.kernel_h = g.kernel_w = 1;
  g.pad_top = g.pad_bottom = 0;
  refuse(0, 5);
}

// All of stride, dilation and padding as large as they may be, on an image of one pixel: 3 x 3
// outputs, of which the one in the middle sees the pixel.
void run_at_the_limits(Kind kind, ConvGeometry g, GuardedMemory& memory, const KernelTable& table) {
  g.kernel_h = g.kernel_w = 1;
  g.stride_h = g.stride_w = g.dilation_h = g.dilation_w = kLimit;
  g.pad_top = g.pad_bottom = g.pad_left = g.pad_right = kLimit;
  memory.start(Side::end);
  float* x = memory.take<float>("x", g.in_channels);
  for (std::int64_t c = 0; c < g.in_channels; ++c) x[c] = 127;  // so that the scale is 1
  float* y = memory.take<float>("y", 9 * g.out_channels);
  const Call call{{x, nullptr, Layout::nhwc, 1, 1, 1}, {y, nullptr, Layout::nhwc, 1, 0}};
  run(kind, g, true, call, table);
  const float middle = 127.0f * static_cast<float>(g.in_channels / g.groups);
  for (std::int64_t i = 0; i < 9 * g.out_channels; ++i) {
    const float expected = i / g.out_channels == 4 ? middle : 0;
    expect(y[i] == expected, "kind ", static_cast<int>(kind), ": y[", i, "] = ", y[i],
           " at the limits, expected ", expected);
  }
}

}  // namespace

Coverage run_conv_refusal(const Problem&, const Subject& subject) {
  Coverage coverage;
  for (const Kind kind : kKinds) {
    const ConvGeometry g = is_depthwise(kind) ? kDepthwise : kGood;
    refuse_geometry(kind, g);
    if (!is_depthwise(kind)) refuse_rows(kind);
    refuse_weights(kind, g);
    subject.memory.start(Side::end);
    // No bytes at all: whoever reads or writes one before refusing dies.
    const Call call{{subject.memory.take<float>("x", 0), nullptr, Layout::nhwc, 1, 5, 5},
                    {subject.memory.take<float>("y", 0), nullptr, Layout::nhwc, 1, 0}};
    refuse_calls(kind, g, call, subject.table);
    refuse_empty(kind, g, call, subject.table);
    run_at_the_limits(kind, g, subject.memory, subject.table);
    coverage.count(true);
  }
  return coverage;
}

}  // namespace skd::check
