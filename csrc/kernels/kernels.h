// The contract between the inner loops and everything above them: plain structs of pointers and
// one table of functions per instruction set. No allocation, no threads, no exceptions, no std
// containers below this line; whoever calls has checked shapes, sizes and positions.
//
// All integer sums are modulo 2^32: the exact value fits 31 bits (checked when a weight is packed),
// so that intermediate wrap-around is harmless. docs/numerics.md defines every operation.
#pragma once

#include <cstdint>

namespace skd {

inline constexpr int kLanes = 16;       // outputs in a slice; lane i of slice s is output 16 s + i
inline constexpr int kWindow = 64;      // inputs in a window of the windowed s8 format
inline constexpr int kDot = 4;          // products that one lane adds in one step
inline constexpr int kMaxTileRows = 8;  // the largest row tile of any kernel
inline constexpr int kDepthwiseChannels = 64;  // channels that a depthwise s8 kernel takes at once
inline constexpr int kOrderBlock = 64;         // outputs of a windowed weight that may be reordered
inline constexpr int kCsrGroup = 64;           // outputs of a CSR weight that are sorted together
inline constexpr int kCsrLanes = 4;            // of these, how many share a run of steps
inline constexpr int kCsrRows = 64;            // the most rows of a CSR panel

enum class Activation : int { none = 0, relu = 1, gelu = 2, silu = 3, relu6 = 4, hardswish = 5 };

// A windowed s8 weight (formats/windowed_s8.h draws it). Slices are numbered over the whole weight.
struct WindowedS8 {
  const std::int8_t* values;        // [steps][16][4]
  const std::uint8_t* positions;    // [steps][16][4], 0..63 inside the window
  const std::uint8_t* quarters;     // [steps] bit q set: a kept weight stands in quarter q
  const std::uint8_t* steps;        // [slices][taps * windows]
  const std::int64_t* step_ptr;     // [slices + 1]
  const std::int32_t* weight_sums;  // [slices * 16] sum of an output's weights
  int uniform_steps;                // the count when every entry of `steps` is equal, else 0
};

// A dense s8 weight (formats/dense_s8.h draws it).
struct DenseS8 {
  const std::int8_t* panels;        // [slices][taps * ceil(inputs / 4)][16][4]
  const std::int32_t* weight_sums;  // [slices * 16]
};

// fp32 output of a tile straight from its registers: y = max(float(acc) * (row_scale * scale) +
// bias, floor), each step rounded, for whole slices, without an activation or with relu. With
// places, which come with whole blocks of 64 outputs, the sums of a block go through TileS8::acc.
struct StoreFp32 {
  const float* row_scale;  // [row_count]
  const float* scale;      // [16 * slice_count]
  const float* bias;       // [16 * slice_count] or null
  float floor;             // 0 for relu, -Inf for none
  float* y;                // [row_count][y_stride]
  std::int64_t y_stride;
  const std::int32_t* places;  // [16 * slice_count] or null: as in EpilogueFp32
};

// u8 output of a tile straight from its registers (docs/numerics.md):
//   y = float(acc) * scale + bias, then + float(r - residual_zero_point) * residual_scale if there
//   is a residual, each step rounded
//   u = clamp(rne(y * inverse_scale) + zero_point, low, high)
// The bytes low and high are the activation's: 0..255 for none, zero_point..255 for relu. That is
// exact because the caller has made sure that |y * inverse_scale| < 2^29 whatever the sums are.
struct RequantizeU8 {
  const float* scale;  // [16 * slice_count] by place; input scale times weight scale
  const float* bias;   // [16 * slice_count] by place
  float inverse_scale;
  std::int32_t zero_point;
  std::uint8_t low, high;
  std::int64_t columns;  // outputs; exactly these are written
  std::uint8_t* y;       // [row_count][y_stride]
  std::int64_t y_stride;
  const std::uint8_t* residual = nullptr;  // [row_count][y_stride] or null; not for depthwise
  float residual_scale = 1;
  std::int32_t residual_zero_point = 0;
};

// One tile of integer sums: acc[r][16 j + i] = sum u w - zero_point * sum w for row r and output
// 16 (first_slice + j) + i.
struct TileS8 {
  const std::uint8_t* const* rows;  // [taps][row_count] -> the first of `inputs` bytes
  int row_count;                    // 1..kMaxTileRows; a kernel may cut it further
  int taps;                         // 1 for Linear
  std::int64_t inputs;              // bytes of a row in one tap; exactly these are read
  std::int64_t first_slice;
  std::int64_t slice_count;
  std::int32_t zero_point;  // 0..255
  std::int32_t* acc;        // [row_count][acc_stride], the first 16 * slice_count written
  std::int64_t acc_stride;
  const StoreFp32* store = nullptr;          // not null: write this; acc only with places
  const RequantizeU8* requantize = nullptr;  // likewise; for the kernels of convolutions
};

// Positions of the float formats are packed: `bits` a step, `per_word` steps a word, the first in
// the lowest bits.
struct PositionPacking {
  int window, bits, per_word;
};
inline constexpr PositionPacking kF32Window16 = {16, 4, 8};
inline constexpr PositionPacking kF32Window32 = {32, 5, 6};
inline constexpr PositionPacking kBf16Window32 = {32, 5, 3};

// A windowed fp32 weight (formats/windowed_float.h draws it): one kept weight a lane and step.
struct WindowedF32 {
  const float* values;             // [steps][16]
  const std::uint32_t* positions;  // [words][16] `bits` a step, several steps a word
  const std::uint8_t* steps;       // [slices][taps * windows]
  const std::int64_t* step_ptr;    // [slices + 1]
  const std::int64_t* word_ptr;    // [slices + 1] first word of a slice
  int window;                      // 16 (4 bits, 8 steps a word) or 32 (5 bits, 6 steps a word)
  int uniform_steps;               // the count when all `steps` are equal, else 0; of a single
                                   // tap a short last window may have a count of its own
};

// A windowed bf16 weight (formats/windowed_float.h): two kept weights a lane and step, windows
// of 32.
struct WindowedBf16 {
  const std::uint16_t* values;     // [steps][16][2]
  const std::uint16_t* positions;  // [words][16][2] 5 bits a step, 3 steps a word
  const std::uint8_t* steps;       // [slices][taps * windows]
  const std::int64_t* step_ptr;    // [slices + 1]
  const std::int64_t* word_ptr;    // [slices + 1]
  int uniform_steps;               // as above
};

// Output of a tile of fp32 sums straight from its registers: y = max(acc + bias, floor), for whole
// slices in their own order; fields as in StoreFp32.
struct StoreSums {
  const float* bias;
  float floor;
  float* y;
  std::int64_t y_stride;
};

// One tile of fp32 sums; fields as in TileS8. Input: float, or std::uint16_t holding bf16 bits.
template <class Input>
struct FloatTile {
  const Input* const* rows;  // [taps][row_count]
  int row_count;
  int taps;
  std::int64_t inputs;
  std::int64_t first_slice;
  std::int64_t slice_count;
  float* acc;  // [row_count][acc_stride]
  std::int64_t acc_stride;
  const StoreSums* store = nullptr;  // not null: write this instead of acc; not for depthwise
};
using TileF32 = FloatTile<float>;
using TileBf16 = FloatTile<std::uint16_t>;

// Depthwise weights: channel c of the output reads channel c of the input alone. Tiles as above
// with inputs = channels; slices are runs of 16 channels and the last may be short (then exactly
// the existing channels of rows are read; acc is written to a multiple of 16). s8: first_slice is a
// multiple of 4, and any number of rows is taken when `requantize` is set.
struct DepthwiseS8 {                // formats/depthwise.h draws it
  const std::int8_t* quads;         // [blocks of 64 channels][ceil(taps / 4)][64][4]
  const std::int32_t* weight_sums;  // [blocks][64]
};
struct DepthwiseF32 {
  const float* values;  // [taps][channels]
};

// y = act(acc + bias + residual) for fp32 sums; fields as in EpilogueFp32.
struct EpilogueSums {
  const float* acc;
  std::int64_t acc_stride;
  int row_count;
  std::int64_t columns;
  const float* bias;
  Activation activation;
  float* y;
  std::int64_t y_stride;
  const std::int32_t* places;
  const float* residual = nullptr;
  std::int64_t residual_stride = 0;
};

// What one group of outputs of a CSR fp32 weight keeps of one block of inputs (formats/csr_f32.h
// draws it). Four outputs share a run of steps; output 4 q + j of `order` is lane j of run q.
struct CsrF32Run {
  const float* values;             // [sum of steps][4]; padding is -0
  const std::uint16_t* positions;  // [sum of steps][4] relative to the block's first input
  const std::uint16_t* steps;      // [kCsrGroup / 4]
  const std::uint8_t* order;       // [kCsrGroup] outputs of the group, each once
};

// x K-major: a vector holds one input of 16 rows. Sums: acc[o][r] (+)= sum_k w[o][k] x[r][k], one
// chain of fused multiply-adds in the order of the steps.
struct CsrF32Tile {
  const float* panel;  // [inputs of the block + 1][panel_rows], the last all +0 (for padding)
  int panel_rows;      // 1, 16, 32, 48 or 64
  bool first;          // sums start at zero and are written; else they are added to
  float* acc;          // [kCsrGroup][panel_rows]
};

// to[c][r] = from[r][c]; rows of `to` are filled up with zeros to a multiple of 16.
struct TransposeF32 {
  const float* from;  // [rows][from_stride], exactly the first `columns` read
  std::int64_t from_stride;
  std::int64_t rows;
  std::int64_t columns;
  float* to;  // [columns][to_stride]
  std::int64_t to_stride;
};

// Turns a tile of sums into fp32 output:
//   y = act(float(acc) * (row_scale * scale) + bias + residual), each step rounded, in this order.
struct EpilogueFp32 {
  const std::int32_t* acc;  // [row_count][acc_stride], readable to a multiple of 16 columns
  std::int64_t acc_stride;
  int row_count;
  std::int64_t columns;    // outputs; exactly these are written and read below
  const float* row_scale;  // [row_count]
  const float* scale;      // [columns]
  const float* bias;       // [columns] or null
  Activation activation;
  float* y;  // [row_count][y_stride]
  std::int64_t y_stride;
  // [columns] or null. Of the weights whose outputs are stored in another order: the sum of column
  // c stands at acc[64 * (c / 64) + places[c]], 0..63 and below `columns` rounded up to 16.
  const std::int32_t* places;
  const float* residual = nullptr;  // [row_count][residual_stride] or null
  std::int64_t residual_stride = 0;
};

// Row pointers of `count` output pixels of a u8 convolution: pointers[tap][i] is the first channel
// of the input pixel under a tap of output pixel first + i, or `outside` where that is padding.
struct RowPointersU8 {
  const std::uint8_t* images;   // [batch][height][width][channels]
  const std::uint8_t* outside;  // [channels]
  std::int64_t height, width, channels, out_height, out_width;
  std::int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
  const std::int64_t*
      inside;          // [kernel_w][2] the output columns begin..end whose tap is no padding
  std::int64_t first;  // counted over all images
  std::int64_t count;
  const std::uint8_t** pointers;  // [taps][count]
};

// A run of pooled pixels, channels innermost: output pixel i pools rows x columns input pixels, of
// which the first is x + i * step. Only pixels of the image are meant, so a window that padding
// covers in part has fewer; it may have none. All strides count elements.
template <class T>
struct PoolRun {
  const T* x;
  std::int64_t count, step;
  std::int64_t rows, row_stride, columns, column_stride;
  std::int64_t channels;  // exactly these are read and written
  T* y;                   // [count][y_stride]; an average of u8 has y or y_f32
  std::int64_t y_stride;
};
// y = float(sum u - rows * columns * zero_point) * scale, to fp32 or to
// u = rne(clamp(y * inverse_scale, -out_zero_point, 255 - out_zero_point)) + out_zero_point.
// At most 2^23 pixels a window.
struct AveragePoolU8 {
  PoolRun<std::uint8_t> run;
  std::int32_t zero_point;
  float scale;  // of the input, by the divisor
  float inverse_scale;
  std::int32_t out_zero_point;
  float* y_f32;  // [count][y_stride] or null
};

// u = clamp(rne(y * inverse_scale) + out_zero_point, low, high) with
// y = float(a - a_zero_point) * a_scale + float(b - b_zero_point) * b_scale, under the bound of
// RequantizeU8.
struct AddU8 {
  const std::uint8_t *a, *b;
  std::int64_t count;
  float a_scale, b_scale;
  std::int32_t a_zero_point, b_zero_point;
  float inverse_scale;
  std::int32_t out_zero_point;
  std::uint8_t low, high;
  std::uint8_t* y;
};

struct KernelTable {
  const char* name;
  int windowed_rows;       // the row tile that linear_windowed_s8 likes best, 1..kMaxTileRows
  int dense_rows;          // likewise for linear_dense_s8 and conv_dense_s8
  int conv_windowed_rows;  // and for conv_windowed_s8

  // u[i] = q + 128 with the row's own symmetric scale, which is returned; NaN for a row with NaN or
  // Inf (then every u is 128), 1 for a row whose absolute maximum is under 2^-100.
  float (*quantize_dynamic_s8)(const float* x, std::int64_t count, std::uint8_t* u);

  // u[i] = rne(clamp(x * inverse_scale, -zp, 255 - zp)) + zp; NaN gives zp.
  void (*quantize_static_u8)(const float* x, std::int64_t count, float inverse_scale,
                             std::int32_t zero_point, std::uint8_t* u);

  void (*linear_windowed_s8)(const WindowedS8& weight, const TileS8& tile);
  void (*linear_dense_s8)(const DenseS8& weight, const TileS8& tile);
  void (*epilogue_fp32)(const EpilogueFp32& job);

  // The absolute maximum, found on the bits: NaN wins over everything, Inf over numbers.
  float (*absolute_maximum)(const float* x, std::int64_t count);

  void (*depthwise_s8)(const DepthwiseS8& weight, const TileS8& tile);
  void (*depthwise_f32)(const DepthwiseF32& weight, const TileF32& tile);
  void (*epilogue_sums)(const EpilogueSums& job);

  // fp32 sums, one chain a lane in the order of the steps. NaN or Inf in a row may reach any output
  // of that row.
  void (*linear_windowed_f32)(const WindowedF32& weight, const TileF32& tile);
  void (*linear_windowed_bf16)(const WindowedBf16& weight, const TileBf16& tile);
  // Round to nearest even; subnormals become zero, NaN stays NaN and quiet.
  void (*to_bf16)(const float* x, std::int64_t count, std::uint16_t* bits);

  void (*linear_csr_f32)(const CsrF32Run& weight, const CsrF32Tile& tile);
  void (*transpose_f32)(const TransposeF32& job);

  // u8 to u8: tile.requantize is set, and tile.row_count any number. Slices of one group.
  void (*conv_windowed_s8)(const WindowedS8& weight, const TileS8& tile);
  void (*conv_dense_s8)(const DenseS8& weight, const TileS8& tile);
  void (*row_pointers_u8)(const RowPointersU8& job);

  // x[i] = float(u[i] - zp) * scale.
  void (*dequantize_u8)(const std::uint8_t* u, std::int64_t count, float scale,
                        std::int32_t zero_point, float* x);

  // The greatest of each channel; an empty window gives 0 or -Inf. fp32: NaN wins, and of equal
  // zeros the first.
  void (*max_pool_u8)(const PoolRun<std::uint8_t>& run);
  void (*max_pool_f32)(const PoolRun<float>& run);
  void (*average_pool_u8)(const AveragePoolU8& job);
  // The sum of each channel, row by row in one chain, divided by `divisor`.
  void (*average_pool_f32)(const PoolRun<float>& run, float divisor);
  void (*add_u8)(const AddU8& job);
};

// One table an instruction set, each defined in kernels/isa/<name>.cpp.
extern const KernelTable kScalarTable;
#if defined(SKD_X86)
extern const KernelTable kAvx2Table;
extern const KernelTable kAvx512Table;
extern const KernelTable kAvx512VnniTable;
extern const KernelTable kAvx512VbmiTable;

// What AVX512_BF16 changes; dispatch makes the table avx512_bf16 of it and avx512_vbmi.
struct Bf16Kernels {
  void (*linear_windowed_bf16)(const WindowedBf16& weight, const TileBf16& tile);
  void (*to_bf16)(const float* x, std::int64_t count, std::uint16_t* bits);
};
extern const Bf16Kernels kAvx512Bf16Kernels;
#endif

}  // namespace skd
