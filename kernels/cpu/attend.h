// SPDX-License-Identifier: Apache-2.0
// Attention of a step's rows over pages of mixed formats and the open groups.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "common/base/task_team.h"
#include "kernels/backend.h"
#include "kernels/cpu/attention_mass.h"
#include "kernels/cpu/pool_memory.h"

namespace palimpsest {

// Room for partial results, kept between calls; grows to the largest step seen.
struct AttendScratch {
  std::vector<float> values;
  std::vector<SoftmaxTotals> totals;  // [StepRows][query_heads], of those with one row
};

// One pass over each lane's live bytes: a page lane is de-quantised once and used for all rows and
// all query heads of its KV group. Work is cut into parts of 64 pages whatever the team's size, and
// parts are merged in order, so the result does not depend on it. Sequences whose slots are judged
// by attention are gone through once more (attention_mass.h, eviction.h).
// REQUIRES: arguments checked (checks.h).
void Attend(const PoolMemory& memory, int layer, absl::Span<const SequenceView> sequences,
            absl::Span<const StepRows> rows, const LayerActivations& io, TaskTeam& team,
            AttendScratch* scratch);

// Calls visit(lane, live) for the live slots of one (layer, KV head), pages in class and
// block-table order, starting at page `first` of all classes together and ending before `last`.
template <typename Visit>
void ForEachLane(const PoolMemory& memory, const SequenceView& view, int layer, int kv_head,
                 size_t first, size_t last, const Visit& visit) {
  size_t base = 0;  // pages of the classes before
  for (const Thought thought : kThoughts) {
    const auto pages = view.pages[Index(thought)];
    for (size_t i = first > base ? first - base : 0; i < pages.size() && base + i < last; ++i) {
      const LaneRef lane = memory.lane(view.formats.of(thought), pages[i], layer, kv_head);
      if (*lane.live != 0) visit(lane, *lane.live);
    }
    base += pages.size();
  }
}

}  // namespace palimpsest
