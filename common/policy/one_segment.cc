// SPDX-License-Identifier: Apache-2.0
#include "common/policy/one_segment.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/policy/oldest_first.h"

namespace palimpsest {

Plan OneSegmentPolicy::Decide(const SequenceState& state, const Observation& observation) const {
  Plan plan;
  if (!observation.refresh) return plan;
  plan.next_label = Thought::kReasoning;
  // One segment as a rule; a peer's snapshot may hold several.
  const uint32_t live = state.live_tokens();
  plan.anneals = TakeFromOldest(state.segments, live - std::min(live, Target()));
  return plan;
}

absl::Status RequireBudget(const PolicySpec& spec, uint32_t recent, uint32_t more) {
  if (spec.budget_tokens >= recent + more) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("budget_tokens ", spec.budget_tokens, ": policy '",
                                                 spec.name, "' expected at least ", recent + more,
                                                 ", as it always keeps the ", recent, " newest"));
}

}  // namespace palimpsest
