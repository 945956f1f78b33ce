// SPDX-License-Identifier: Apache-2.0
#include "common/policy/oldest_first.h"

#include <algorithm>

namespace palimpsest {

std::vector<Anneal> TakeFromOldest(absl::Span<const Segment> segments, uint32_t excess) {
  std::vector<Anneal> anneals;
  for (const Segment& segment : segments) {
    if (excess == 0) break;
    if (segment.pinned || segment.live_count == 0) continue;
    const uint32_t removed = std::min(segment.live_count, excess);
    excess -= removed;
    anneals.push_back({.first_position = segment.first_position,
                       .keep = segment.live_count - removed,
                       .demotions = segment.demotions});
  }
  return anneals;
}

}  // namespace palimpsest
