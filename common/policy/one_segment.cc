// SPDX-License-Identifier: Apache-2.0
#include "common/policy/one_segment.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace palimpsest {

Plan OneSegmentPolicy::Decide(const SequenceState& state, const Observation& observation) const {
  Plan plan;
  if (!observation.refresh) return plan;
  plan.next_label = Thought::kReasoning;
  // A peer's snapshot may hold several segments: the oldest give first.
  const uint32_t live = state.live_tokens();
  uint32_t excess = live - std::min(live, Target());
  for (const Segment& segment : state.segments) {
    if (segment.pinned || segment.live_count == 0 || excess == 0) continue;
    const uint32_t removed = std::min(segment.live_count, excess);
    excess -= removed;
    plan.anneals.push_back({.first_position = segment.first_position,
                            .keep = segment.live_count - removed,
                            .demotions = segment.demotions});
  }
  return plan;
}

absl::Status RequireBudget(const PolicySpec& spec, uint32_t recent, uint32_t more) {
  if (spec.budget_tokens >= recent + more) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("budget_tokens ", spec.budget_tokens, ": policy '",
                                                 spec.name, "' expected at least ", recent + more,
                                                 ", as it always keeps the ", recent, " newest"));
}

}  // namespace palimpsest
