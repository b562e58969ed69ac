// Problems of convolutions. Most have padding: the border is where an int8 convolution goes wrong.
#include <algorithm>
#include <sstream>

#include "check/pick.h"

namespace skd::check {
namespace {

void pick_axis(Random& random, std::int64_t kernel, bool padded, std::int64_t& stride,
               std::int64_t& dilation, std::int64_t& before, std::int64_t& after) {
  stride = random.percent(65) ? 1 : random.in(2, 3);
  dilation = random.percent(75) ? 1 : random.in(2, 3);
  const std::int64_t reach = dilation * (kernel - 1);
  before = padded ? random.in(0, reach / 2 + 1) : 0;
  after = padded ? random.in(0, reach / 2 + 1) : 0;
  if (padded && random.percent(4)) before = reach + 2;  // outputs that see nothing but padding
}

// Outputs along an axis, by trying the places where a window may start.
std::int64_t places(std::int64_t size, std::int64_t kernel, std::int64_t stride,
                    std::int64_t dilation, std::int64_t before, std::int64_t after) {
  std::int64_t count = 0, start = -before;
  for (; start + dilation * (kernel - 1) < size + after; start += stride) ++count;
  return count;
}

void place(Problem& p) {
  const ConvGeometry& g = p.images.geometry;
  p.images.out_height =
      places(p.images.height, g.kernel_h, g.stride_h, g.dilation_h, g.pad_top, g.pad_bottom);
  p.images.out_width =
      places(p.images.width, g.kernel_w, g.stride_w, g.dilation_w, g.pad_left, g.pad_right);
}

void pick_geometry(Random& random, Problem& p) {
  ConvGeometry& g = p.images.geometry;
  g.kernel_h = g.kernel_w = random.pick<std::int64_t>({1, 2, 3, 3, 3, 3, 5, 7});
  if (random.percent(20)) g.kernel_h = random.in(1, 7);
  if (random.percent(15)) g.kernel_w = random.in(1, 7);
  const bool padded = random.percent(85);
  pick_axis(random, g.kernel_h, padded, g.stride_h, g.dilation_h, g.pad_top, g.pad_bottom);
  pick_axis(random, g.kernel_w, padded, g.stride_w, g.dilation_w, g.pad_left, g.pad_right);
  if (random.percent(12)) {  // the ops read these as one row of pixels
    g.kernel_h = g.kernel_w = g.stride_h = g.stride_w = 1;
    g.pad_top = g.pad_bottom = g.pad_left = g.pad_right = 0;
  }
  p.taps = g.taps();
  p.images.height = random.in(1, 12);
  p.images.width = random.percent(90) ? random.in(1, 12) : random.in(12, 70);
  for (place(p); p.images.out_height == 0; place(p)) ++p.images.height;
  for (place(p); p.images.out_width == 0; place(p)) ++p.images.width;
}

// Multiply-adds of the naive convolution, and the elements of its images.
std::int64_t work(const Problem& p) {
  const Images& i = p.images;
  return std::max<std::int64_t>(p.rows, 1) *
         (i.out_height * i.out_width * p.outputs * p.inputs * p.taps +
          20 * i.height * i.width * i.geometry.in_channels);
}

void pick_channels(Random& random, Problem& p) {
  ConvGeometry& g = p.images.geometry;
  if (is_depthwise(p.op)) {
    g.groups = p.outputs = pick_size(random, 200);
    p.inputs = 1;
  } else {
    g.groups = random.percent(75) ? 1 : random.in(2, 4);
    p.inputs = pick_size(random, 200);
    p.outputs = pick_size(random, 100);
    if (random.percent(8)) p.outputs = random.in(100, 400);  // slices for several threads
    p.outputs *= g.groups;
  }
  const std::int64_t budget = random.percent(5) ? 3000000 : 250000;
  const auto shrink = [&] {
    g.in_channels = p.inputs * g.groups;
    g.out_channels = p.outputs;
    return work(p) > budget;
  };
  if (shrink() && p.rows > 1) p.rows = random.in(1, 2);
  while (shrink() && p.inputs > 17) p.inputs -= p.inputs / 3;
  while (shrink() && p.outputs > 20 * g.groups && !is_depthwise(p.op)) p.outputs -= g.groups * 3;
}

// A weight cut along rows, where the convolution can have one. Small images have most of their
// outputs at an edge, so most of these are wider than they are high.
void pick_rows(Random& random, Problem& p) {
  ConvGeometry& g = p.images.geometry;
  if (random.percent(60)) {
    g.groups = 1;
    g.in_channels = p.inputs = random.percent(60) ? random.in(1, 4) : random.in(5, 63);
    g.dilation_w = 1;
    p.images.width += random.in(0, 20);
    for (place(p); p.images.out_width == 0; place(p)) ++p.images.width;
    while (work(p) > 400000 && p.outputs > 17) p.outputs -= p.outputs / 3;
    while (work(p) > 400000 && p.inputs > 3) g.in_channels = p.inputs -= p.inputs / 3;
    g.out_channels = p.outputs;
  }
  g.rows = g.can_have_rows();
  p.taps = g.taps();
  p.inputs = g.tap_inputs();
}

// Depthwise layers do so little that only large ones are shared among threads.
void pick_wide_depthwise(Random& random, Problem& p) {
  ConvGeometry& g = p.images.geometry;
  g.groups = g.in_channels = g.out_channels = p.outputs = random.in(120, 260);
  p.images.height += 8;
  p.images.width += 8;
  place(p);
}

// A layer between others in u8, as whole networks have them: requantized without leaving registers.
void pick_u8_chain(Random& random, Problem& p) {
  p.dynamic = false;
  p.zero_point = random.pick({0, 1, 77, 128, 200, 255});
  p.images.u8_in = p.images.u8_out = true;
  p.images.in = p.images.out = p.images.residual = Layout::nhwc;
  p.activation = random.pick({Activation::none, Activation::relu, Activation::relu6});
  p.residual = random.percent(50) ? Residual::u8 : Residual::none;
}

}  // namespace

void pick_conv(Random& random, Problem& p) {
  Images& images = p.images;
  p.rows = random.percent(5) ? 0 : random.in(1, 3);
  pick_geometry(random, p);
  pick_channels(random, p);
  if (is_depthwise(p.op) && random.percent(35)) pick_wide_depthwise(random, p);
  if (!is_depthwise(p.op) && random.percent(40)) pick_rows(random, p);
  p.threads = static_cast<int>(random.in(1, 3));
  p.dynamic = random.percent(50);
  p.zero_point = p.dynamic ? 128 : random.pick({0, 1, 77, 128, 200, 255});
  images.u8_in = !is_float(p.op) && !p.dynamic && random.percent(50);
  images.in = images.u8_in || random.percent(50) ? Layout::nhwc : Layout::nchw;
  images.u8_out = random.percent(45);
  images.out = images.u8_out || random.percent(50) ? Layout::nhwc : Layout::nchw;
  images.out_zero_point = random.pick({0, 1, 77, 128, 200, 255});
  pick_weights(random, p);
  if (is_depthwise(p.op) && random.percent(60)) p.mask = Mask::full;  // real ones are not sparse
  const std::int32_t zero_point = p.zero_point;
  pick_bytes(random, p);
  p.zero_point = zero_point;
  pick_floats(random, p);
  pick_activation(random, p);
  if (random.percent(40)) p.residual = random.pick({Residual::f32, Residual::u8, Residual::u8});
  if (p.residual == Residual::f32 && random.percent(50)) images.residual = Layout::nchw;
  if (!is_float(p.op) && random.percent(25)) pick_u8_chain(random, p);
  pick_environment(random, p);
  if (p.rows > 0 && random.percent(30)) p.split = random.in(0, p.rows);
}

std::string describe_images(const Problem& p) {
  const Images& i = p.images;
  const ConvGeometry& g = i.geometry;
  const auto type = [](bool u8, Layout layout) {
    return std::string(u8 ? "u8" : layout == Layout::nhwc ? "nhwc" : "nchw");
  };
  std::ostringstream text;
  text << p.rows << 'x' << i.height << 'x' << i.width << 'x' << g.in_channels << "->"
       << g.out_channels << ' ' << type(i.u8_in, i.in) << "->" << type(i.u8_out, i.out)
       << " kernel=" << g.kernel_h << 'x' << g.kernel_w;
  if (g.stride_h * g.stride_w > 1) text << " stride=" << g.stride_h << ',' << g.stride_w;
  if (g.dilation_h * g.dilation_w > 1) text << " dilation=" << g.dilation_h << ',' << g.dilation_w;
  text << " pad=" << g.pad_top << ',' << g.pad_bottom << ',' << g.pad_left << ',' << g.pad_right;
  if (g.groups > 1) text << " groups=" << g.groups;
  if (g.rows) text << " rows";
  if (i.u8_out) text << " out-zp=" << i.out_zero_point;
  if (i.residual == Layout::nchw) text << " residual=nchw";
  return text.str();
}

}  // namespace skd::check
