// SPDX-License-Identifier: Apache-2.0
#include "services/decode/engine/pressure.h"

namespace palimpsest {
namespace {

// Empties the oldest unpinned segments of `thought` until `tokens` dead slots exist.
std::optional<std::vector<Anneal>> EmptyOldest(const SequenceState& state, Thought thought,
                                               uint32_t tokens, uint32_t dead_slots) {
  std::vector<Anneal> anneals;
  for (const Segment& segment : state.segments) {
    if (dead_slots >= tokens) break;
    if (segment.pinned || segment.label != thought || segment.live_count == 0) continue;
    anneals.push_back({.first_position = segment.first_position,
                       .keep = 0,
                       .demotions = static_cast<uint8_t>(segment.demotions + 1)});
    dead_slots += segment.live_count;
  }
  if (dead_slots < tokens) return std::nullopt;
  return anneals;
}

}  // namespace

std::optional<Relief> PlanRelief(const SequenceState& state, Thought label, uint32_t tokens,
                                 const std::array<uint32_t, kThoughtCount>& dead_slots) {
  // kThoughts runs from the least important class to the most important one, whose format is the
  // widest; the label's own class comes first.
  if (dead_slots[Index(label)] >= tokens) return Relief{.seal_as = label, .anneals = {}};
  for (auto it = kThoughts.rbegin(); it != kThoughts.rend(); ++it) {
    if (dead_slots[Index(*it)] >= tokens) return Relief{.seal_as = *it, .anneals = {}};
  }
  for (const Thought thought : kThoughts) {
    std::optional<std::vector<Anneal>> anneals =
        EmptyOldest(state, thought, tokens, dead_slots[Index(thought)]);
    if (anneals.has_value()) return Relief{.seal_as = thought, .anneals = *std::move(anneals)};
  }
  return std::nullopt;
}

}  // namespace palimpsest
