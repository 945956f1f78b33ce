// SPDX-License-Identifier: Apache-2.0
// What each live token of a segment is worth in one lane, by the order's selector.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cpu/pool_memory.h"

namespace palimpsest {

// A live token of a segment in one lane.
struct LiveToken {
  uint32_t position = 0;
  uint32_t page = 0;  // index into the class's block table
  int slot = 0;
};
using LaneTokens = std::vector<LiveToken>;  // ascending positions

struct LaneIndex {
  int layer = 0;
  int kv_head = 0;
};

// What kRandom sorts by: backends agree on it. From splitmix64's finaliser.
constexpr uint32_t RandomScore(int layer, int kv_head, uint32_t position) {
  uint64_t x = uint64_t{position} | uint64_t(kv_head) << 32 | uint64_t(layer) << 48;
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return static_cast<uint32_t>((x ^ x >> 31) >> 40);  // 24 bits: exact in a float
}

// One score a token, higher is better, in the order of `tokens`.
// REQUIRES: the backend was configured for the order's selector (checks.h).
std::vector<float> ScoreTokens(const PoolMemory& memory, const SequenceView& view,
                               const AnnealOrder& order, LaneIndex at, const LaneTokens& tokens);

}  // namespace palimpsest
