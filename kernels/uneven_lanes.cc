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
  const uint64_t dealt = uint64_t{pages - even_pages} * ranks.size();
  const auto* const end_of_whole =
      std::upper_bound(round_first.begin() + 1, round_first.end(), dealt);
  auto rounds = static_cast<size_t>(end_of_whole - round_first.begin()) - 1;  // there as a whole
  const uint64_t in_next = end_of_whole == round_first.end() ? 0 : dealt - round_first[rounds];
  std::vector<uint32_t> by_rank(ranks.size());
  for (uint32_t rank = 0; rank < by_rank.size(); ++rank) {
    // Rounds get smaller: the last ones are the first that a rank has no part in.
    while (rounds > 0 && round_first[rounds] - round_first[rounds - 1] <= rank) --rounds;
    by_rank[rank] = even_pages + static_cast<uint32_t>(rounds) + (rank < in_next ? 1 : 0);
  }
  std::transform(ranks.begin(), ranks.end(), counts.begin(),
                 [&](uint32_t rank) { return by_rank[rank]; });
}

}  // namespace palimpsest
