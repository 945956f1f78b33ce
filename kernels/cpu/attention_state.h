// SPDX-License-Identifier: Apache-2.0
// Attention that can be computed in parts: a softmax-weighted sum over some of the keys, kept
// unnormalised with its running maximum, so that parts can be merged in any grouping.
#pragma once

#include <cmath>
#include <limits>

namespace palimpsest {

// The state of one query. `values` [head_dim] is borrowed:
//   sum = Σ exp(logit - max),  values = Σ exp(logit - max) · V.
struct AttentionState {
  float max = -std::numeric_limits<float>::infinity();
  float sum = 0.0f;
  float* values = nullptr;

  // The state that has seen no key.
  static AttentionState Init(float* values, int head_dim) {
    for (int c = 0; c < head_dim; ++c) values[c] = 0.0f;
    return {.values = values};
  }

  // Adds what `other` has seen.
  void Merge(const AttentionState& other, int head_dim) {
    if (other.sum == 0.0f) return;
    const float merged = max > other.max ? max : other.max;
    const float mine = sum == 0.0f ? 0.0f : std::exp(max - merged);
    const float theirs = std::exp(other.max - merged);
    for (int c = 0; c < head_dim; ++c) {
      values[c] = values[c] * mine + other.values[c] * theirs;
    }
    sum = sum * mine + other.sum * theirs;
    max = merged;
  }

  // Writes the attention output [head_dim]; zeros if no key was seen.
  void Normalise(int head_dim, float* out) const {
    const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
    for (int c = 0; c < head_dim; ++c) out[c] = values[c] * inverse;
  }
};

}  // namespace palimpsest
