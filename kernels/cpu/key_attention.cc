// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/key_attention.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/tile.h"

namespace palimpsest {

void KeyLogits(const float* q, const float* keys, int head_dim, float scale,
               absl::Span<float> logits) {
  float tile[kSlotsPerPage];
  for (size_t first = 0; first < logits.size(); first += kSlotsPerPage) {
    const size_t tokens = std::min<size_t>(kSlotsPerPage, logits.size() - first);
    TileLogits(q, keys + first * head_dim, static_cast<int>(tokens), head_dim, scale, tile);
    std::copy_n(tile, tokens, logits.begin() + first);
  }
}

void Softmax(absl::Span<float> logits) {
  if (logits.empty()) return;
  const float max = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (float& x : logits) sum += x = std::exp(x - max);
  for (float& x : logits) x = static_cast<float>(x / sum);
}

}  // namespace palimpsest
