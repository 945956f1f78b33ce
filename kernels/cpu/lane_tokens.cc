// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/lane_tokens.h"

#include <algorithm>
#include <bit>

#include "kernels/cpu/tile.h"

namespace palimpsest {

LaneTokens LiveTokens(const ClassLane& lane, uint32_t first_position, uint32_t end_position) {
  LaneTokens tokens;
  const LaneBlocks blocks = lane.blocks();
  for (uint32_t i = 0; i < blocks.size(); ++i) {
    const LaneRef block = blocks[i];
    for (uint32_t live = *block.live; live != 0; live &= live - 1) {
      const int slot = std::countr_zero(live);
      const uint32_t position = block.positions[slot];
      if (position >= first_position && position < end_position) {
        tokens.push_back({position, i, slot});
      }
    }
  }
  std::sort(tokens.begin(), tokens.end(),
            [](const LiveToken& a, const LiveToken& b) { return a.position < b.position; });
  return tokens;
}

void GatherKeys(const ClassLane& lane, const LaneTokens& tokens, float* out, size_t stride) {
  const LaneBlocks blocks = lane.blocks();
  for (const LiveToken& token : tokens) {
    const LaneRef block = blocks[token.block];
    DequantiseSlots(block.layout->format.k, block.k_data(), block.k_scales(),
                    static_cast<uint16_t>(1u << token.slot), lane.head_dim(), out);
    out += stride;
  }
}

void GatherValues(const ClassLane& lane, const LaneTokens& tokens, float* out, size_t stride) {
  const LaneBlocks blocks = lane.blocks();
  for (const LiveToken& token : tokens) {
    const LaneRef block = blocks[token.block];
    DequantiseSlots(block.layout->format.v, block.v_data(), block.v_scales(),
                    static_cast<uint16_t>(1u << token.slot), lane.head_dim(), out);
    out += stride;
  }
}

}  // namespace palimpsest
