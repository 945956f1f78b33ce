// SPDX-License-Identifier: Apache-2.0
// Where the blocks of a lane are (kernels/uneven_lanes.h): the one place in kernels/cpu that knows
// even sequences from uneven ones.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cpu/pool_memory.h"

namespace palimpsest {

// The blocks of one (layer, KV head) in the pages of one class of a sequence, in block-table order.
// Borrowed.
class LaneBlocks {
 public:
  LaneBlocks(const PoolMemory& memory, const SequenceView& view, Thought thought, int layer,
             int kv_head)
      : memory_(memory),
        pages_(view.pages[Index(thought)]),
        format_(view.formats.of(thought)),
        layer_(layer),
        kv_head_(kv_head) {
    size_ = static_cast<uint32_t>(pages_.size());
    if (view.uneven.empty() || pages_.empty()) return;
    uneven_ = &view.uneven;
    const int heads = memory.shape().kv_heads;
    lane_ = static_cast<uint32_t>(layer * heads + kv_head);
    rank_ = memory.layout().lane_ranks()[lane_];
    size_ = uneven_->block_counts[lane_];
  }

  uint32_t size() const { return size_; }
  // REQUIRES: index < size().
  LaneRef operator[](uint32_t index) const {
    if (uneven_ == nullptr) return memory_.lane(format_, pages_[index], layer_, kv_head_);
    const auto lanes = static_cast<uint32_t>(memory_.shape().lanes());
    const BlockPlace at = PlaceOfBlock(*uneven_, lanes, lane_, rank_, index);
    const auto heads = static_cast<uint32_t>(memory_.shape().kv_heads);
    return memory_.lane(format_, pages_[at.page], static_cast<int>(at.place / heads),
                        static_cast<int>(at.place % heads));
  }

 private:
  const PoolMemory& memory_;
  const absl::Span<const PageOffset> pages_;
  const PageFormat format_;
  const int layer_;
  const int kv_head_;
  const UnevenLanes* uneven_ = nullptr;  // null: block i is the lane's own in page i
  uint32_t lane_ = 0;
  uint32_t rank_ = 0;
  uint32_t size_ = 0;
};

}  // namespace palimpsest
