// Problems of pooling and of adding images.
#include <algorithm>
#include <sstream>

#include "check/pick.h"
#include "kernels/reference.h"

namespace skd::check {
namespace {

void pick_axis(Random& random, bool dilated, std::int64_t size, std::int64_t& kernel,
               std::int64_t& stride, std::int64_t& dilation, std::int64_t& pad) {
  kernel = random.pick<std::int64_t>({1, 2, 2, 3, 3, 3, 5, size});
  stride = random.in(1, 4);
  dilation = dilated && random.percent(25) ? random.in(2, 3) : 1;
  pad = random.percent(60) ? random.in(0, ((kernel - 1) * dilation + 1) / 2) : 0;
}

}  // namespace

void pick_pool(Random& random, Problem& p) {
  Images& i = p.images;
  ConvGeometry& g = i.geometry;
  const bool average = p.op == Op::avg_pool_u8 || p.op == Op::avg_pool_f32;
  p.rows = random.percent(4) ? 0 : random.in(1, 3);
  p.outputs = std::min<std::int64_t>(p.outputs, random.percent(85) ? 200 : 700);
  const auto size = [&] { return random.percent(95) ? random.in(1, 15) : random.in(16, 40); };
  do {
    i.height = size();
    i.width = size();
    pick_axis(random, !average, i.height, g.kernel_h, g.stride_h, g.dilation_h, g.pad_top);
    pick_axis(random, !average, i.width, g.kernel_w, g.stride_w, g.dilation_w, g.pad_left);
    i.ceil_mode = random.percent(40);
    const auto out = [&](std::int64_t s, std::int64_t k, std::int64_t stride, std::int64_t d,
                         std::int64_t pad) {
      return reference::pooled_size(s, k, stride, d, pad, i.ceil_mode);
    };
    i.out_height = out(i.height, g.kernel_h, g.stride_h, g.dilation_h, g.pad_top);
    i.out_width = out(i.width, g.kernel_w, g.stride_w, g.dilation_w, g.pad_left);
  } while (i.out_height < 1 || i.out_width < 1);
  if (random.percent(15)) p.outputs = random.in(300, 600), i.height += 8;  // for several threads
  i.out_height = reference::pooled_size(i.height, g.kernel_h, g.stride_h, g.dilation_h, g.pad_top,
                                        i.ceil_mode);
  g.in_channels = g.out_channels = p.outputs;
  i.u8_in = p.op == Op::avg_pool_u8 || p.op == Op::max_pool_u8;
  i.u8_out = i.u8_in && (!average || random.percent(60));
  i.in = i.out = i.u8_in || random.percent(50) ? Layout::nhwc : Layout::nchw;
  i.include_pad = random.percent(50);
  i.divisor = average && random.percent(15) ? random.in(1, 50) : 0;
  pick_bytes(random, p);
  pick_floats(random, p);
  i.out_zero_point = random.pick({0, 1, 77, 128, 255});
  p.threads = static_cast<int>(random.in(1, 3));
  pick_environment(random, p);
}

void pick_add(Random& random, Problem& p) {
  p.inputs = random.percent(10) ? random.in(100000, 400000) : pick_size(random, 4200);
  if (random.percent(2)) p.inputs = 0;
  p.images.u8_in = random.percent(70);  // the first, the second, the output
  p.residual = random.percent(70) ? Residual::u8 : Residual::f32;
  p.images.u8_out = random.percent(70);
  p.images.out_zero_point = random.pick({0, 1, 77, 128, 255});
  p.zero_point = random.pick({0, 1, 77, 128, 255});
  pick_activation(random, p);
  if (random.percent(50)) p.activation = random.pick({Activation::none, Activation::relu});
  p.bias = false;
  pick_floats(random, p);
  p.threads = static_cast<int>(random.in(1, 3));
  pick_environment(random, p);
}

std::string describe_pool(const Problem& p) {
  const Images& i = p.images;
  std::ostringstream text;
  text << describe_images(p) << (i.ceil_mode ? " ceil" : "") << (i.include_pad ? " with-pad" : "");
  if (i.divisor > 0) text << " divisor=" << i.divisor;
  text << " zp=" << p.zero_point << " threads=" << p.threads;
  return text.str();
}

}  // namespace skd::check
