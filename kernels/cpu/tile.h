// SPDX-License-Identifier: Apache-2.0
// The inner loops: one lane of one page, de-quantised once into a small float tile that stays in
// L1, then used for every query of the KV group. Vectorised (simd.h); the rest of kernels/cpu is
// plain C++ around these three functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention_state.h"
#include "kernels/pool_layout.h"

namespace palimpsest {

// A cache line, so that no vector of a tile straddles two. Only speed depends on it, and GCC 12's
// AddressSanitizer does not keep it for locals (detect_stack_use_after_return): 32 there.
#ifdef __SANITIZE_ADDRESS__
inline constexpr size_t kTileAlignment = 32;
#else
inline constexpr size_t kTileAlignment = 64;
#endif

// K or V of up to 16 tokens, token-major [tokens][head_dim].
struct alignas(kTileAlignment) FloatTile {
  float values[kSlotsPerPage * kMaxHeadDim];
};

// De-quantises the slots whose bits are set in `live`, packed in slot order. Bytes of other slots
// are never read. `data` and `scales` start at slot 0. Returns the number of tokens.
int DequantiseSlots(Format format, const uint8_t* data, const uint8_t* scales, uint16_t live,
                    int head_dim, float* out);

// logits[t] = scale * q · keys[t] for t < tokens. Other entries of `logits` [16] are not defined.
void TileLogits(const float* q, const float* keys, int tokens, int head_dim, float scale,
                float* logits);

// Folds `tokens` keys and values into the state of query `q`. No-op for 0 tokens.
void FoldTile(const float* q, const float* keys, const float* values, int tokens, int head_dim,
              float scale, AttentionState* state);

}  // namespace palimpsest
