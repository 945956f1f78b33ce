// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/anneal.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/cpu/kmeans.h"
#include "kernels/cpu/lane_tokens.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/token_scores.h"

namespace palimpsest {
namespace {

struct Segment {
  const PoolMemory& memory;
  const SequenceView& view;
  const AnnealOrder& order;

  ClassLane lane(int layer, int kv_head) const {
    return {memory, view, order.thought, layer, kv_head};
  }
  // How many tokens a lane keeps.
  uint32_t keep(int layer, int kv_head) const {
    if (order.lane_keeps.empty()) return order.keep;
    return order.lane_keeps[static_cast<size_t>(layer) * memory.shape().kv_heads + kv_head];
  }
};

// Adds what is evicted to the sums that attention reads in its place.
void AddToResidue(const ClassLane& lane, const LaneTokens& evicted) {
  const auto dim = static_cast<size_t>(lane.head_dim());
  std::vector<float> rows(evicted.size() * dim);
  float* sum = lane.memory.residue(lane.view.open_group, lane.layer, lane.kv_head);
  for (const auto gather : {GatherKeys, GatherValues}) {
    gather(lane, evicted, rows.data(), dim);
    for (size_t i = 0; i < rows.size(); ++i) sum[i % dim] += rows[i];
    sum += dim;
  }
  *sum += static_cast<float>(evicted.size());
}

// Clears the live bits of all but tokens[kept...]. `kept` is ascending.
void Keep(const ClassLane& lane, const LaneTokens& tokens, absl::Span<const uint32_t> kept,
          bool residue) {
  const LaneBlocks blocks = lane.blocks();
  size_t next = 0;
  LaneTokens evicted;
  for (uint32_t i = 0; i < tokens.size(); ++i) {
    if (next < kept.size() && kept[next] == i) {
      ++next;
      continue;
    }
    uint16_t* const live = blocks[tokens[i].block].live;
    *live = static_cast<uint16_t>(*live & ~(1u << tokens[i].slot));
    evicted.push_back(tokens[i]);
  }
  if (residue) AddToResidue(lane, evicted);
}

// The `keep` best, ascending: the `recent` newest, then by score; of equal ones the earlier.
std::vector<uint32_t> BestTokens(absl::Span<const float> scores, uint32_t keep, uint32_t recent) {
  const auto tokens = static_cast<uint32_t>(scores.size());
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
    GatherKeys(segment.lane(layer, h), heads[h], keys.data() + dim * (h - first), width);
  }
  const std::vector<uint32_t> kept =
      KMeansMedoids(keys, tokens, static_cast<uint32_t>(width), segment.order.keep);
  for (int h = first; h < last; ++h) {
    Keep(segment.lane(layer, h), heads[h], kept, /*residue=*/false);
  }
}

// One KV head's tokens, by score.
void KeepBest(const Segment& segment, int layer, int kv_head, const LaneTokens& tokens) {
  const Selection& selection = segment.order.selection;
  const uint32_t keep = segment.keep(layer, kv_head);
  if (tokens.size() <= keep) return;
  const uint32_t recent = RecentOf(selection, keep);
  const ClassLane lane = segment.lane(layer, kv_head);
  const std::vector<float> scores = keep > recent
                                        ? ScoreTokens(lane, tokens, selection.selector, recent)
                                        : std::vector<float>(tokens.size());
  Keep(lane, tokens, BestTokens(scores, keep, recent), selection.residue);
}

void AnnealLayer(const Segment& segment, int layer) {
  const int head_count = segment.memory.shape().kv_heads;
  std::vector<LaneTokens> heads;
  heads.reserve(static_cast<size_t>(head_count));
  for (int h = 0; h < head_count; ++h) {
    heads.push_back(LiveTokens(segment.lane(layer, h), segment.order.first_position,
                               segment.order.end_position));
  }

  const uint32_t keep = segment.order.keep;
  const bool medoids = segment.order.selection.selector == Selector::kKMeansMedoids && keep > 0;
  if (!medoids) {
    for (int h = 0; h < head_count; ++h) KeepBest(segment, layer, h, heads[h]);
    return;
  }
  const bool same = std::all_of(heads.begin(), heads.end(), [&](const LaneTokens& tokens) {
    return SamePositions(tokens, heads[0]);
  });
  if (same && heads[0].size() > keep) return KeepMedoids(segment, layer, 0, head_count, heads);
  for (int h = 0; h < head_count; ++h) {
    if (heads[h].size() > keep) KeepMedoids(segment, layer, h, h + 1, heads);
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
