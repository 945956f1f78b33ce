// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/attention_mass.h"

#include <bit>
#include <cmath>

#include "kernels/cpu/attend.h"
#include "kernels/cpu/tile.h"

namespace palimpsest {
namespace {

// masses[t] = the sum over the group's heads of the probability of keys[t], [tokens][head_dim].
void TileMasses(const AttendedLane& at, const float* keys, int tokens, float* masses) {
  const int dim = at.memory.shape().head_dim;
  float logits[kSlotsPerPage];
  for (int t = 0; t < tokens; ++t) masses[t] = 0.0f;
  for (size_t g = 0; g < at.heads.size(); ++g) {
    TileLogits(at.q + g * dim, keys, tokens, dim, at.scale, logits);
    for (int t = 0; t < tokens; ++t) {
      masses[t] += std::exp(logits[t] - at.heads[g].max) / at.heads[g].sum;
    }
  }
}

}  // namespace

void ForEachMass(const AttendedLane& at,
                 absl::FunctionRef<void(const LaneRef&, int, float)> visit) {
  const int dim = at.memory.shape().head_dim;
  FloatTile keys;
  float masses[kSlotsPerPage];
  ForEachLane(at.memory, at.view, at.layer, at.kv_head, 0, SIZE_MAX,
              [&](const LaneRef& lane, uint16_t live) {
                const int tokens = DequantiseSlots(lane.layout->format.k, lane.k_data(),
                                                   lane.k_scales(), live, dim, keys.values);
                TileMasses(at, keys.values, tokens, masses);
                const float* mass = masses;
                for (uint32_t rest = live; rest != 0; rest &= rest - 1) {
                  visit(lane, std::countr_zero(rest), *mass++);
                }
              });
}

void AddAttentionReceived(const AttendedLane& at) {
  ForEachMass(at, [](const LaneRef& lane, int slot, float mass) { lane.scores[slot] += mass; });
  FloatTile keys;
  float masses[kSlotsPerPage];
  const int open = static_cast<int>(at.view.open_count) + 1;
  const uint16_t* const open_keys = at.memory.open_keys(at.view.open_group, at.layer, at.kv_head);
  DequantiseSlots(Format::kBf16, reinterpret_cast<const uint8_t*>(open_keys), nullptr,
                  static_cast<uint16_t>((uint32_t{1} << open) - 1), at.memory.shape().head_dim,
                  keys.values);
  TileMasses(at, keys.values, open, masses);
  float* const scores = at.memory.open_scores(at.view.open_group, at.layer, at.kv_head);
  for (int t = 0; t < open; ++t) scores[t] += masses[t];
}

}  // namespace palimpsest
