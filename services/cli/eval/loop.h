// SPDX-License-Identifier: Apache-2.0
// Whether a chain has lost itself: it ends in the same words over and over.
#pragma once

#include <cstdint>

#include "absl/types/span.h"

namespace palimpsest::cli {

inline constexpr size_t kLoopPeriodMax = 512;  // tokens that are repeated
inline constexpr size_t kLoopRepeats = 4;      // at least so often
inline constexpr size_t kLoopTokens = 64;      // and over at least so many tokens

// Whether the last tokens are one n-gram, of up to kLoopPeriodMax tokens, again and again. A search
// that walks in circles and changes a word each time is not seen by it.
inline bool EndsInALoop(absl::Span<const int32_t> tokens) {
  for (size_t period = 1; period <= kLoopPeriodMax; ++period) {
    const size_t tail = kLoopRepeats * period < kLoopTokens ? kLoopTokens : kLoopRepeats * period;
    if (tail > tokens.size()) return false;
    size_t same = 0;
    while (same + period < tail &&
           tokens[tokens.size() - 1 - same] == tokens[tokens.size() - 1 - same - period]) {
      ++same;
    }
    if (same + period == tail) return true;
  }
  return false;
}

}  // namespace palimpsest::cli
