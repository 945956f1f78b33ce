// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/lane_tokens.h"

#include <algorithm>
#include <bit>

#include "kernels/cpu/tile.h"

namespace palimpsest {

LaneTokens LiveTokens(const ClassLane& lane, uint32_t first_position, uint32_t end_position) {
  LaneTokens tokens;
  const auto pages = static_cast<uint32_t>(lane.view.pages[Index(lane.thought)].size());
  for (uint32_t page = 0; page < pages; ++page) {
    const LaneRef of_page = lane.page(page);
    for (uint32_t live = *of_page.live; live != 0; live &= live - 1) {
      const int slot = std::countr_zero(live);
      const uint32_t position = of_page.positions[slot];
      if (position >= first_position && position < end_position) {
        tokens.push_back({position, page, slot});
      }
    }
  }
  std::sort(tokens.begin(), tokens.end(),
            [](const LiveToken& a, const LiveToken& b) { return a.position < b.position; });
  return tokens;
}

void GatherKeys(const ClassLane& lane, const LaneTokens& tokens, float* out, size_t stride) {
  for (const LiveToken& token : tokens) {
    const LaneRef of_page = lane.page(token.page);
    DequantiseSlots(of_page.layout->format.k, of_page.k_data(), of_page.k_scales(),
                    static_cast<uint16_t>(1u << token.slot), lane.head_dim(), out);
    out += stride;
  }
}

void GatherValues(const ClassLane& lane, const LaneTokens& tokens, float* out, size_t stride) {
  for (const LiveToken& token : tokens) {
    const LaneRef of_page = lane.page(token.page);
    DequantiseSlots(of_page.layout->format.v, of_page.v_data(), of_page.v_scales(),
                    static_cast<uint16_t>(1u << token.slot), lane.head_dim(), out);
    out += stride;
  }
}

}  // namespace palimpsest
