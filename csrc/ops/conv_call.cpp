#include "ops/conv_call.h"

#include "core/check.h"
#include "core/sizes.h"
#include "ops/conv_runs.h"

namespace skd {
namespace {

std::int64_t out_size(std::int64_t size, std::int64_t before, std::int64_t after,
                      std::int64_t kernel, std::int64_t dilation, std::int64_t stride) {
  const std::int64_t room = size + before + after - dilation * (kernel - 1) - 1;
  return room < 0 ? 0 : room / stride + 1;
}

}  // namespace

std::int64_t ConvGeometry::out_height(std::int64_t height) const {
  return out_size(height, pad_top, pad_bottom, kernel_h, dilation_h, stride_h);
}

std::int64_t ConvGeometry::out_width(std::int64_t width) const {
  return out_size(width, pad_left, pad_right, kernel_w, dilation_w, stride_w);
}

bool ConvGeometry::can_have_rows() const {
  return groups == 1 && dilation_w == 1 && kernel_w > 1 && in_channels < kRowChannels &&
         (pad_left + pad_right == 0 || kernel_h * kernel_w * in_channels <= kPatchInputs);
}

void ConvGeometry::check() const {
  constexpr std::int64_t kMost = 1 << 20;  // far past any use, so that no product below overflows
  const auto within = [](const char* what, std::int64_t value, std::int64_t least,
                         std::int64_t most) {
    require(value >= least && value <= most, what, ": ", value, ", expected ", least, "..", most);
  };
  within("groups", groups, 1, kMost);
  within("in_channels", in_channels, 1, kMost);
  within("out_channels", out_channels, 1, kMost);
  require(in_channels % groups == 0 && out_channels % groups == 0, "groups: ", groups,
          " does not divide ", in_channels, " in and ", out_channels, " out channels");
  for (const std::int64_t k : {kernel_h, kernel_w}) within("kernel_size", k, 1, 1024);
  for (const std::int64_t s : {stride_h, stride_w}) within("stride", s, 1, kMost);
  for (const std::int64_t d : {dilation_h, dilation_w}) within("dilation", d, 1, kMost);
  for (const std::int64_t p : {pad_top, pad_bottom, pad_left, pad_right}) {
    within("padding", p, 0, kMost);
  }
  require(!rows || can_have_rows(), "geometry rows: ", in_channels, " channels, ", groups,
          " groups, kernel ", kernel_h, " x ", kernel_w, ", dilation ", dilation_w,
          " along a row; expected less than ", kRowChannels,
          " channels in one group, a kernel wider than 1 without dilation along a row and, where "
          "rows are padded, at most ",
          kPatchInputs, " inputs of an output");
}

void check_call(const ConvGeometry& g, const ConvInput& x, const ConvOutput& y) {
  constexpr std::int64_t kMost = 1LL << 40;  // no sum with padding below overflows
  require(x.batch >= 0 && x.height >= 0 && x.width >= 0 && x.height <= kMost && x.width <= kMost,
          "images: batch ", x.batch, ", height ", x.height, ", width ", x.width,
          "; expected at least 0 and sides of at most 2^40");
  require(x.batch == 0 ||
              ((x.f32 == nullptr) != (x.u8 == nullptr) && (y.f32 == nullptr) != (y.u8 == nullptr)),
          "input and output: expected either fp32 or u8 data");
  require(x.u8 == nullptr || x.layout == Layout::nhwc, "u8 input: expected NHWC");
  require(y.u8 == nullptr || y.layout == Layout::nhwc, "u8 output: expected NHWC");
  const std::int64_t height = g.out_height(x.height), width = g.out_width(x.width);
  require(height >= 1 && width >= 1, "images of ", x.height, " x ", x.width,
          ": the output would be empty");
  checked_mul(checked_mul(checked_mul(x.batch, x.height), x.width), g.in_channels * 4);
  checked_mul(checked_mul(checked_mul(x.batch, height), width), g.out_channels * 4);
  if (y.u8 != nullptr) check_u8("output", y.scale, y.zero_point);
  const ConvResidual& r = y.residual;
  require(r.f32 == nullptr || r.u8 == nullptr, "residual: expected either fp32 or u8 data");
  require(r.u8 == nullptr || r.layout == Layout::nhwc, "u8 residual: expected NHWC");
  if (r.u8 != nullptr) check_u8("residual", r.scale, r.zero_point);
}

}  // namespace skd
