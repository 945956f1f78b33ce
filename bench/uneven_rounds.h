// SPDX-License-Identifier: Apache-2.0
// Lanes that share a budget unequally, for benchmarks: shares of no model, and whose blocks are
// whose (kernels/uneven_lanes.h).
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

namespace palimpsest::bench {

// `count` shares whose mean is 1, at random: most below it, the largest some three times as much,
// the smallest a quarter.
inline std::vector<float> RandomShares(uint32_t count) {
  std::mt19937 random(1);
  std::exponential_distribution<float> excess(1.0f / 0.9f);
  std::vector<float> shares(count);
  for (float& share : shares) share = std::min(0.25f + excess(random), 3.0f);
  const float mean = std::accumulate(shares.begin(), shares.end(), 0.0f) / count;
  for (float& share : shares) share /= mean;
  return shares;
}

// UnevenLanes::round_first where lanes have as many blocks behind the even pages as `blocks` says.
inline std::vector<uint32_t> RoundsOf(const std::vector<uint32_t>& blocks) {
  std::vector<uint32_t> first = {0};
  const uint32_t rounds = *std::max_element(blocks.begin(), blocks.end());
  for (uint32_t round = 0; round < rounds; ++round) {
    const auto size = std::count_if(blocks.begin(), blocks.end(),
                                    [&](uint32_t of_lane) { return of_lane > round; });
    first.push_back(first.back() + static_cast<uint32_t>(size));
  }
  return first;
}

}  // namespace palimpsest::bench
