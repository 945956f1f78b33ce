// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/sparsity.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "kernels/cpu/attend.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/tile.h"

namespace palimpsest {
namespace {

constexpr float kNegligible = 0.01f;  // of the largest probability

struct KeyLogit {
  uint32_t position = 0;
  float logit = 0.0f;  // the largest over the query heads of the group
};

// Softmax over the live keys of one KV head, in order of position.
std::vector<float> HeadProbabilities(const PoolMemory& memory, int layer, int kv_head,
                                     const SequenceView& view, const StepRows& r,
                                     const LayerActivations& io) {
  const int dim = memory.shape().head_dim;
  const int query_heads = memory.config().query_heads;
  const int group = query_heads / memory.shape().kv_heads;
  const size_t row = size_t{r.row} + r.count - 1;
  const float* q =
      static_cast<const float*>(io.q) + (row * query_heads + size_t(kv_head) * group) * dim;
  FloatTile tile;
  std::vector<KeyLogit> keys;
  // Adds the tile's tokens; position_of(t) is the position of its t-th one.
  const auto add = [&](int tokens, const auto& position_of) {
    float logits[kSlotsPerPage];
    const size_t first = keys.size();
    for (int g = 0; g < group; ++g) {
      TileLogits(q + static_cast<size_t>(g) * dim, tile.values, tokens, dim, io.scale, logits);
      for (int t = 0; t < tokens; ++t) {
        if (g == 0) keys.push_back({position_of(t), logits[t]});
        keys[first + t].logit = std::max(keys[first + t].logit, logits[t]);
      }
    }
  };
  ForEachLane(memory, view, layer, kv_head, 0, SIZE_MAX, [&](const LaneRef& lane, uint16_t live) {
    uint32_t positions[kSlotsPerPage];
    int tokens = 0;
    for (uint32_t rest = live; rest != 0; rest &= rest - 1) {
      positions[tokens++] = lane.positions[std::countr_zero(rest)];
    }
    DequantiseSlots(lane.layout->format.k, lane.k_data(), lane.k_scales(), live, dim, tile.values);
    add(tokens, [&](int t) { return positions[t]; });
  });
  const int open = static_cast<int>(view.open_count + r.count);
  DequantiseSlots(
      Format::kBf16,
      reinterpret_cast<const uint8_t*>(memory.open_keys(view.open_group, layer, kv_head)), nullptr,
      static_cast<uint16_t>((uint32_t{1} << open) - 1), dim, tile.values);
  add(open, [&](int t) { return view.open_position + static_cast<uint32_t>(t); });

  std::sort(keys.begin(), keys.end(),
            [](const KeyLogit& a, const KeyLogit& b) { return a.position < b.position; });
  float max = keys[0].logit;
  for (const KeyLogit& key : keys) max = std::max(max, key.logit);
  std::vector<float> probabilities(keys.size());
  double sum = 0.0;
  for (size_t i = 0; i < keys.size(); ++i) {
    probabilities[i] = std::exp(keys[i].logit - max);
    sum += probabilities[i];
  }
  for (float& p : probabilities) p = static_cast<float>(p / sum);
  return probabilities;
}

}  // namespace

absl::Status MeasureSparsity(const PoolMemory& memory, int layer,
                             absl::Span<const SequenceView> sequences,
                             absl::Span<const StepRows> rows, const LayerActivations& io,
                             TaskTeam& team, absl::Span<float> sparsity) {
  const int heads = memory.shape().kv_heads;
  std::vector<std::vector<float>> by_head(rows.size() * heads);
  ParallelFor(team, static_cast<int64_t>(by_head.size()), [&](int64_t i) {
    const StepRows& r = rows[i / heads];
    by_head[i] =
        HeadProbabilities(memory, layer, static_cast<int>(i % heads), sequences[r.sequence], r, io);
  });
  for (size_t i = 0; i < rows.size(); ++i) {
    std::vector<float> sum = by_head[i * heads];  // the mean, but for a constant factor
    for (int h = 1; h < heads; ++h) {
      const std::vector<float>& other = by_head[i * heads + h];
      if (other.size() != sum.size()) {
        return absl::InternalError("KV heads of a sequence have unequal live counts");
      }
      for (size_t j = 0; j < sum.size(); ++j) sum[j] += other[j];
    }
    const float limit = kNegligible * *std::max_element(sum.begin(), sum.end());
    const auto small = std::count_if(sum.begin(), sum.end(), [&](float p) { return p < limit; });
    sparsity[i] = static_cast<float>(small) / static_cast<float>(sum.size());
  }
  return absl::OkStatus();
}

}  // namespace palimpsest
