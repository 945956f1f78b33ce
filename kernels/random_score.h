// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace palimpsest {

// What kRandom sorts by: backends agree on it. From splitmix64's finaliser.
constexpr uint32_t RandomScore(uint32_t layer, uint32_t kv_head, uint32_t position) {
  uint64_t x = uint64_t{position} | uint64_t{kv_head} << 32 | uint64_t{layer} << 48;
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return static_cast<uint32_t>((x ^ x >> 31) >> 40);  // 24 bits: exact in a float
}

}  // namespace palimpsest
