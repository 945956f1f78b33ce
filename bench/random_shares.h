// SPDX-License-Identifier: Apache-2.0
// Lanes that share a budget unequally, for benchmarks: shares of no model.
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

}  // namespace palimpsest::bench
