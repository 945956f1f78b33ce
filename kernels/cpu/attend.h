// SPDX-License-Identifier: Apache-2.0
// Attention of a step's rows over pages of mixed formats and the open groups.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "common/base/task_team.h"
#include "kernels/backend.h"
#include "kernels/cpu/attention_mass.h"
#include "kernels/cpu/lane_blocks.h"
#include "kernels/cpu/pool_memory.h"

namespace palimpsest {

// Room for partial results, kept between calls; grows to the largest step seen.
struct AttendScratch {
  std::vector<float> values;
  std::vector<SoftmaxTotals> totals;  // [StepRows][query_heads], of those with one row
};

// One pass over each lane's live bytes: a page lane is de-quantised once and used for all rows and
// all query heads of its KV group. Work is cut into parts of 64 blocks whatever the team's size,
// and parts are merged in order, so the result does not depend on it. Sequences whose slots are
// judged by attention are gone through once more (attention_mass.h, eviction.h).
// REQUIRES: arguments checked (checks.h).
void Attend(const PoolMemory& memory, int layer, absl::Span<const SequenceView> sequences,
            absl::Span<const StepRows> rows, const LayerActivations& io, TaskTeam& team,
            AttendScratch* scratch);

// Calls visit(block, live) for the live slots of one (layer, KV head), its blocks in class and
// block-table order, starting at block `first` of all classes together and ending before `last`.
template <typename Visit>
void ForEachLane(const PoolMemory& memory, const SequenceView& view, int layer, int kv_head,
                 size_t first, size_t last, const Visit& visit) {
  size_t base = 0;  // blocks of the classes before
  for (const Thought thought : kThoughts) {
    const LaneBlocks blocks(memory, view, thought, layer, kv_head);
    for (size_t i = first > base ? first - base : 0; i < blocks.size() && base + i < last; ++i) {
      const LaneRef block = blocks[static_cast<uint32_t>(i)];
      if (*block.live != 0) visit(block, *block.live);
    }
    base += blocks.size();
  }
}

}  // namespace palimpsest
