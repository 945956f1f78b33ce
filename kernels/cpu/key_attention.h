// SPDX-License-Identifier: Apache-2.0
// Logits and softmax over keys that lie one after the other, as selectors gather them. Attention
// itself works in tiles and keeps no probabilities (attend.cc).
#pragma once

#include "absl/types/span.h"

namespace palimpsest {

// logits[i] = scale * q · keys[i]. `keys` is [logits.size()][head_dim].
void KeyLogits(const float* q, const float* keys, int head_dim, float scale,
               absl::Span<float> logits);

// In place. No-op where there is nothing.
void Softmax(absl::Span<float> logits);

}  // namespace palimpsest
