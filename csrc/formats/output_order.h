// Which output stands in which place of a windowed weight. Places are numbered like outputs: those
// of a group one after another, 16 to a slice. Outputs move within blocks of 64 of their group, the
// last one short, so that outputs which keep equally many inputs of a window can share a slice;
// scales, biases and results stay in the order of the outputs.
#pragma once

#include <cstdint>

#include "core/buffer.h"
#include "formats/sliced_outputs.h"

namespace skd {

class OutputOrder {
 public:
  OutputOrder() = default;  // every output in its own place
  // Copies `order`: [outputs] the output in each place, or null for the above. Throws skd::Error
  // unless it permutes the outputs of every block, at least two of them.
  OutputOrder(const std::int32_t* order, const SlicedOutputs& layout);

  std::int64_t output_in(std::int64_t place) const {
    return outputs_.size() == 0 ? place : outputs_[place];
  }
  // [outputs] as stored, or null.
  const std::int32_t* stored() const { return outputs_.data(); }
  // [outputs] the place of each output within its block, 0..63, or null: what epilogues read.
  const std::int32_t* places() const { return places_.data(); }
  std::int64_t bytes() const {
    return outputs_.size() * static_cast<std::int64_t>(sizeof(std::int32_t));
  }

 private:
  Buffer<std::int32_t> outputs_, places_;
};

}  // namespace skd
