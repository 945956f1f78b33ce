// SPDX-License-Identifier: Apache-2.0
// What each live token of a segment is worth in one lane, by the order's selector.
#pragma once

#include <vector>

#include "kernels/cpu/lane_tokens.h"

namespace palimpsest {

// What kRandom sorts by: backends agree on it. From splitmix64's finaliser.
constexpr uint32_t RandomScore(int layer, int kv_head, uint32_t position) {
  uint64_t x = uint64_t{position} | uint64_t(kv_head) << 32 | uint64_t(layer) << 48;
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return static_cast<uint32_t>((x ^ x >> 31) >> 40);  // 24 bits: exact in a float
}

// One score for each of the segment's live `tokens`, higher is better. Those of the `recent`
// newest, which stay anyway, may be anything.
// REQUIRES: the backend was configured for the order's selector, and the sequence has what it needs
// (checks.h); recent < tokens.size().
std::vector<float> ScoreTokens(const ClassLane& lane, const LaneTokens& tokens, Selector selector,
                               uint32_t recent);

}  // namespace palimpsest
