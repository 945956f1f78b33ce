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

}  // namespace palimpsest
