// SPDX-License-Identifier: Apache-2.0
// R-KV (arXiv 2505.24133, section 3): every 128 tokens (the buffer; window_tokens here) down to the
// budget, the observation window of 8 always among what stays. The score is a kernel's:
// 0.1 x importance - 0.9 x redundancy. What the prompt has stays apart from the budget, as for
// every policy here; the released code lets prompts compete.
#include <memory>

#include "common/base/status_macros.h"
#include "common/policy/one_segment.h"
#include "common/policy/policies.h"

namespace palimpsest {
namespace {

constexpr uint32_t kObservationTokens = 8;  // alpha

}  // namespace

absl::StatusOr<std::unique_ptr<const Policy>> NewRkvPolicy(const PolicySpec& spec) {
  KV_RETURN_IF_ERROR(RequireBudget(spec, kObservationTokens, 8));
  return std::make_unique<const OneSegmentPolicy>(
      spec.budget_tokens,
      Selection{.selector = Selector::kJointScore, .recent = kObservationTokens});
}

}  // namespace palimpsest
