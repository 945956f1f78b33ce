// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/anneal.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <vector>

#include "kernels/cpu/kmeans.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/tile.h"
#include "kernels/cpu/token_scores.h"

namespace palimpsest {
namespace {

struct Segment {
  const PoolMemory& memory;
  const SequenceView& view;
  const AnnealOrder& order;

  LaneRef lane(uint32_t page, int layer, int kv_head) const {
    return memory.lane(view.formats.of(order.thought), view.pages[Index(order.thought)][page],
                       layer, kv_head);
  }
};

LaneTokens LiveTokens(const Segment& segment, int layer, int kv_head) {
  LaneTokens tokens;
  const auto pages = static_cast<uint32_t>(segment.view.pages[Index(segment.order.thought)].size());
  for (uint32_t page = 0; page < pages; ++page) {
    const LaneRef lane = segment.lane(page, layer, kv_head);
    for (uint32_t live = *lane.live; live != 0; live &= live - 1) {
      const int slot = std::countr_zero(live);
      const uint32_t position = lane.positions[slot];
      if (position >= segment.order.first_position && position < segment.order.end_position) {
        tokens.push_back({position, page, slot});
      }
    }
  }
  std::sort(tokens.begin(), tokens.end(),
            [](const LiveToken& a, const LiveToken& b) { return a.position < b.position; });
  return tokens;
}

// Clears the live bits of all but tokens[kept...]. `kept` is ascending.
void Keep(const Segment& segment, int layer, int kv_head, const LaneTokens& tokens,
          absl::Span<const uint32_t> kept) {
  size_t next = 0;
  for (uint32_t i = 0; i < tokens.size(); ++i) {
    if (next < kept.size() && kept[next] == i) {
      ++next;
      continue;
    }
    uint16_t* live = segment.lane(tokens[i].page, layer, kv_head).live;
    *live = static_cast<uint16_t>(*live & ~(1u << tokens[i].slot));
  }
}

// Writes the de-quantised keys of `tokens` to rows of `stride` floats.
void GatherKeys(const Segment& segment, int layer, int kv_head, const LaneTokens& tokens,
                float* out, size_t stride) {
  for (const LiveToken& token : tokens) {
    const LaneRef lane = segment.lane(token.page, layer, kv_head);
    DequantiseSlots(lane.layout->format.k, lane.k_data(), lane.k_scales(),
                    static_cast<uint16_t>(1u << token.slot), segment.memory.shape().head_dim, out);
    out += stride;
  }
}

// The `keep` best, ascending: the `recent` newest, then by score; of equal ones the earlier.
std::vector<uint32_t> BestTokens(absl::Span<const float> scores, uint32_t keep, uint32_t recent) {
  const auto tokens = static_cast<uint32_t>(scores.size());
  recent = std::min(recent, keep);
  std::vector<uint32_t> order(tokens);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end() - recent,
                   [&](uint32_t a, uint32_t b) { return scores[a] > scores[b]; });
  std::rotate(order.begin(), order.end() - recent, order.end());
  order.resize(keep);
  std::sort(order.begin(), order.end());
  return order;
}

bool SamePositions(const LaneTokens& a, const LaneTokens& b) {
  return std::equal(
      a.begin(), a.end(), b.begin(), b.end(),
      [](const LiveToken& x, const LiveToken& y) { return x.position == y.position; });
}

// K-means over heads [first, last) side by side, which hold the same tokens.
void KeepMedoids(const Segment& segment, int layer, int first, int last,
                 absl::Span<const LaneTokens> heads) {
  const auto tokens = static_cast<uint32_t>(heads[first].size());
  const size_t dim = static_cast<size_t>(segment.memory.shape().head_dim);
  const size_t width = dim * static_cast<size_t>(last - first);
  std::vector<float> keys(tokens * width);
  for (int h = first; h < last; ++h) {
    GatherKeys(segment, layer, h, heads[h], keys.data() + dim * (h - first), width);
  }
  const std::vector<uint32_t> kept =
      KMeansMedoids(keys, tokens, static_cast<uint32_t>(width), segment.order.keep);
  for (int h = first; h < last; ++h) Keep(segment, layer, h, heads[h], kept);
}

void AnnealLayer(const Segment& segment, int layer) {
  const int head_count = segment.memory.shape().kv_heads;
  const uint32_t keep = segment.order.keep;
  std::vector<LaneTokens> heads;
  heads.reserve(static_cast<size_t>(head_count));
  for (int h = 0; h < head_count; ++h) heads.push_back(LiveTokens(segment, layer, h));

  const bool same = std::all_of(heads.begin(), heads.end(), [&](const LaneTokens& tokens) {
    return SamePositions(tokens, heads[0]);
  });
  const bool medoids = segment.order.selection.selector == Selector::kKMeansMedoids && keep > 0;
  if (medoids && same && heads[0].size() > keep) {
    return KeepMedoids(segment, layer, 0, head_count, heads);
  }
  for (int h = 0; h < head_count; ++h) {
    if (heads[h].size() <= keep) continue;
    if (medoids) {
      KeepMedoids(segment, layer, h, h + 1, heads);
    } else if (keep == 0) {
      Keep(segment, layer, h, heads[h], {});
    } else {
      const std::vector<float> scores = ScoreTokens(segment.memory, segment.view, segment.order,
                                                    {.layer = layer, .kv_head = h}, heads[h]);
      Keep(segment, layer, h, heads[h], BestTokens(scores, keep, segment.order.selection.recent));
    }
  }
}

}  // namespace

void Anneal(const PoolMemory& memory, absl::Span<const SequenceView> sequences,
            absl::Span<const AnnealOrder> orders, TaskTeam& team) {
  // Orders may meet in one live mask (two segments share a page), layers never do.
  ParallelFor(team, memory.shape().layers, [&](int64_t layer) {
    for (const AnnealOrder& order : orders) {
      AnnealLayer({memory, sequences[order.sequence], order}, static_cast<int>(layer));
    }
  });
}

}  // namespace palimpsest
