// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/uneven_writer.h"

#include <algorithm>

namespace palimpsest::cuda {

uint32_t RoundsUsed(const UnevenLanes& uneven) {
  return *std::max_element(uneven.block_counts.begin(), uneven.block_counts.end()) -
         uneven.even_pages;
}

void WriteUnevenTable(const UnevenLanes& uneven, absl::Span<const uint32_t> ranks, uint32_t* to) {
  *to++ = uneven.even_pages;
  for (size_t lane = 0; lane < ranks.size(); ++lane) to[ranks[lane]] = uneven.block_counts[lane];
  std::copy_n(uneven.round_first.begin(), RoundsUsed(uneven) + 1, to + ranks.size());
}

void WriteLaneKeeps(const AnnealOrder& order, absl::Span<uint32_t> to) {
  for (size_t lane = 0; lane < to.size() / LaneKeep::kNumbers; ++lane) {
    const uint32_t keep = order.lane_keeps.empty() ? order.keep : order.lane_keeps[lane];
    to[LaneKeep::kNumbers * lane] = keep;
    to[LaneKeep::kNumbers * lane + 1] = RecentOf(order.selection, keep);
  }
}

}  // namespace palimpsest::cuda
