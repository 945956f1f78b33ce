// SPDX-License-Identifier: Apache-2.0
#include "kernels/block_rounds.h"

#include <algorithm>
#include <numeric>

namespace palimpsest {

std::vector<uint32_t> RoundsOf(absl::Span<const uint32_t> capacities) {
  const uint32_t rounds = *std::max_element(capacities.begin(), capacities.end());
  std::vector<uint32_t> sizes(rounds + 1);  // first of lanes whose last round it is
  for (const uint32_t capacity : capacities) ++sizes[capacity];
  for (uint32_t round = rounds; round > 0; --round) sizes[round - 1] += sizes[round];
  // Now of lanes with at least that many blocks: a round has a block for those that have more.
  std::vector<uint32_t> first(rounds + 1);
  std::partial_sum(sizes.begin() + 1, sizes.end(), first.begin() + 1);
  return first;
}

}  // namespace palimpsest
