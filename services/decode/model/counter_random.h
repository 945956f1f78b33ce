// SPDX-License-Identifier: Apache-2.0
// A counter-based generator: draw number n of a stream is a pure function of (stream, n). Nothing
// is carried from draw to draw, so a result does not depend on what else was drawn, or where.
#pragma once

#include <cstdint>

namespace palimpsest {

// SplitMix64's finaliser: a bijection whose output bits all depend on all input bits.
constexpr uint64_t MixBits(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// Uniform in [0, 1), 53 bits.
constexpr double CounterUniform(uint64_t stream, uint64_t counter) {
  return static_cast<double>(MixBits(MixBits(stream) ^ MixBits(~counter)) >> 11) * 0x1p-53;
}

}  // namespace palimpsest
