// SPDX-License-Identifier: Apache-2.0
// LongFlow (arXiv 2603.11504): a cache of fixed capacity. Once it is full every step evicts, in
// each layer, the token whose attention weight times L1 norm of V is least for the present query,
// and the next token takes a slot that became free. Here the capacity is k with the open group's
// tokens counted in, and these, 16 at most, are no candidates; nor is the prompt.
//
// At every group boundary the plan makes room for the next group; the engine carries it out a token
// a step (IsGradual).
#include <memory>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/policy/one_segment.h"
#include "common/policy/policies.h"

namespace palimpsest {
namespace {

constexpr uint32_t kGroup = kWindowTokensMin;

class LongFlowPolicy final : public OneSegmentPolicy {
 public:
  explicit LongFlowPolicy(uint32_t budget_tokens)
      : OneSegmentPolicy(budget_tokens, {.selector = Selector::kValueAttention}) {}

 protected:
  uint32_t Target() const override { return budget_tokens() - kGroup; }
};

}  // namespace

absl::StatusOr<std::unique_ptr<const Policy>> NewLongFlowPolicy(const PolicySpec& spec) {
  KV_RETURN_IF_ERROR(RequireBudget(spec, 0, 2 * kGroup));
  if (spec.window_tokens != kGroup) {
    return absl::InvalidArgumentError(absl::StrCat("window_tokens ", spec.window_tokens,
                                                   ": policy 'longflow' expected ", kGroup,
                                                   ": it makes room for every group"));
  }
  return std::make_unique<const LongFlowPolicy>(spec.budget_tokens);
}

}  // namespace palimpsest
