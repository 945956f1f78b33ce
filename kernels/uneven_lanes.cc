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
  const auto whole = static_cast<size_t>(end_of_whole - round_first.begin()) - 1;  // rounds
  std::vector<uint32_t> by_rank(ranks.size(), even_pages);
  // Rounds get smaller. So from the last to the first, each has some ranks more.
  uint32_t rank = 0;
  for (size_t round = whole; round-- > 0;) {
    const uint32_t size = round_first[round + 1] - round_first[round];
    for (; rank < size; ++rank) by_rank[rank] += static_cast<uint32_t>(round) + 1;
  }
  const uint64_t in_next = end_of_whole == round_first.end() ? 0 : dealt - round_first[whole];
  for (uint64_t i = 0; i < in_next; ++i) ++by_rank[i];
  std::transform(ranks.begin(), ranks.end(), counts.begin(),
                 [&](uint32_t rank) { return by_rank[rank]; });
}

}  // namespace palimpsest
