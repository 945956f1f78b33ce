// SPDX-License-Identifier: Apache-2.0
#include "kernels/uneven_lanes.h"

#include <algorithm>
#include <numeric>

namespace palimpsest {

std::vector<uint32_t> RankLanes(absl::Span<const float> shares) {
  std::vector<uint32_t> lanes(shares.size()), ranks(shares.size());
  std::iota(lanes.begin(), lanes.end(), 0);
  std::stable_sort(lanes.begin(), lanes.end(),
                   [&](uint32_t a, uint32_t b) { return shares[a] > shares[b]; });
  for (uint32_t rank = 0; rank < lanes.size(); ++rank) ranks[lanes[rank]] = rank;
  return ranks;
}

void CountBlocks(uint32_t even_pages, uint32_t pages, absl::Span<const uint32_t> round_first,
                 absl::Span<const uint32_t> ranks, absl::Span<uint32_t> counts) {
  const uint32_t even = std::min(even_pages, pages);
  const uint64_t blocks = uint64_t{pages - even} * ranks.size();
  for (size_t lane = 0; lane < ranks.size(); ++lane) {
    // Rounds grow smaller and their blocks lie further behind: those that gave this lane a block
    // which is there come before all others.
    size_t low = 0, high = round_first.size() - 1;
    while (low < high) {
      const size_t round = (low + high) / 2;
      const uint64_t block = uint64_t{round_first[round]} + ranks[lane];
      if (block < round_first[round + 1] && block < blocks) {
        low = round + 1;
      } else {
        high = round;
      }
    }
    counts[lane] = even + static_cast<uint32_t>(low);
  }
}

}  // namespace palimpsest
