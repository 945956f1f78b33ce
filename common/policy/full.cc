// SPDX-License-Identifier: Apache-2.0
// The baseline: every token stays. Formats may still be narrow; the budget means nothing here.
#include <memory>

#include "common/policy/policies.h"

namespace palimpsest {
namespace {

class FullPolicy final : public Policy {
 public:
  Selection selection() const override { return {Selector::kMostRecent}; }
  bool wants_sparsity() const override { return false; }

  Plan Decide(const SequenceState& /*state*/, const Observation& observation) const override {
    Plan plan;
    if (observation.refresh) plan.next_label = Thought::kReasoning;
    return plan;
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<const Policy>> NewFullPolicy(const PolicySpec& /*spec*/) {
  return std::make_unique<const FullPolicy>();
}

}  // namespace palimpsest
