// SPDX-License-Identifier: Apache-2.0
// Random bits by counter: no state to keep.
#pragma once

#include <cstdint>

namespace palimpsest::bench {

// SplitMix64 of (seed, index).
__device__ inline uint64_t RandomBits(uint64_t seed, uint64_t index) {
  uint64_t x = seed * 0xd1342543de82ef95ull + index * 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

}  // namespace palimpsest::bench
