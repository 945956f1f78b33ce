// SPDX-License-Identifier: Apache-2.0
// Sinks and recent tokens: the prompt (pinned, so it serves as the sinks) and the k most recent
// sealed tokens. Annealing the oldest segments with the most-recent selection keeps exactly those,
// so at every group boundary live tokens are min(k, tokens after the prompt).
#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "common/policy/oldest_first.h"
#include "common/policy/policies.h"

namespace palimpsest {
namespace {

class WindowPolicy final : public Policy {
 public:
  explicit WindowPolicy(uint32_t budget_tokens) : budget_tokens_(budget_tokens) {}

  Selection selection() const override { return {Selector::kMostRecent}; }
  bool wants_sparsity() const override { return false; }

  Plan Decide(const SequenceState& state, const Observation& observation) const override {
    Plan plan;
    if (observation.refresh) plan.next_label = Thought::kReasoning;
    const uint32_t live = state.live_tokens();
    const size_t count = state.segments.size();
    const size_t end = observation.refresh || count == 0 ? count : count - 1;
    plan.anneals = TakeFromOldest(absl::MakeConstSpan(state.segments).first(end),
                                  live - std::min(live, budget_tokens_));
    return plan;
  }

 private:
  const uint32_t budget_tokens_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<const Policy>> NewWindowPolicy(const PolicySpec& spec) {
  // The segment being written is at most a window long, so with k >= tau it never has to be
  // touched.
  if (spec.budget_tokens < spec.window_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("budget_tokens ", spec.budget_tokens,
                                                   ": policy 'window' expected at least ",
                                                   "window_tokens (", spec.window_tokens, ")"));
  }
  return std::make_unique<const WindowPolicy>(spec.budget_tokens);
}

}  // namespace palimpsest
