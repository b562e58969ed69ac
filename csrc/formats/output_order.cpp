#include "formats/output_order.h"

#include "core/check.h"

namespace skd {

OutputOrder::OutputOrder(const std::int32_t* order, const SlicedOutputs& layout) {
  if (order == nullptr) return;
  constexpr std::int32_t kNone = -1;
  places_ = Buffer<std::int32_t>(layout.outputs);
  for (std::int64_t o = 0; o < layout.outputs; ++o) places_[o] = kNone;
  bool moves = false;
  for (std::int64_t place = 0; place < layout.outputs; ++place) {
    const Range block = layout.block_of(place);
    const std::int64_t output = order[place];
    require(output >= block.begin && output < block.end, "order: output ", output, " in place ",
            place, ", expected one of ", block.begin, "..", block.end - 1);
    require(places_[output] == kNone, "order: output ", output, " in two places");
    places_[output] = static_cast<std::int32_t>(place - block.begin);
    moves = moves || output != place;
  }
  require(moves, "order: every output stands in its own place, where none is to be stored");
  outputs_ = Buffer<std::int32_t>::copy_of(order, layout.outputs);
}

}  // namespace skd
