// SPDX-License-Identifier: Apache-2.0
// The planner that policies share which choose k tokens out of all that follow the prompt: they
// differ in how a kernel chooses (Selection), and in nothing else.
#pragma once

#include "common/policy/policy.h"

namespace palimpsest {

class OneSegmentPolicy : public Policy {
 public:
  OneSegmentPolicy(uint32_t budget_tokens, Selection selection)
      : budget_tokens_(budget_tokens), selection_(selection) {}

  Selection selection() const override { return selection_; }
  bool wants_sparsity() const override { return false; }
  bool one_segment() const override { return true; }
  // At the end of a window down to the target; so live tokens are k to k + window_tokens.
  Plan Decide(const SequenceState& state, const Observation& observation) const override;

 protected:
  // The live tokens that are left at the end of a window.
  virtual uint32_t Target() const { return budget_tokens_; }
  uint32_t budget_tokens() const { return budget_tokens_; }

 private:
  const uint32_t budget_tokens_;
  const Selection selection_;
};

// InvalidArgument unless the budget holds the `recent` tokens that are always kept and `more`.
absl::Status RequireBudget(const PolicySpec& spec, uint32_t recent, uint32_t more);

}  // namespace palimpsest
