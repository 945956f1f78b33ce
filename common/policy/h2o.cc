// SPDX-License-Identifier: Apache-2.0
// H2O (arXiv 2306.14048): half of the budget for the newest tokens, half for the heavy hitters,
// those that have received most attention since they were written. The paper evicts a token a step;
// here whole windows of 16 tokens, the newest of which are never candidates, go at once.
#include <memory>

#include "common/policy/one_segment.h"
#include "common/policy/policies.h"

namespace palimpsest {

absl::StatusOr<std::unique_ptr<const Policy>> NewH2oPolicy(const PolicySpec& spec) {
  const uint32_t recent = spec.budget_tokens / 2;
  return std::make_unique<const OneSegmentPolicy>(
      spec.budget_tokens, Selection{.selector = Selector::kAttentionReceived, .recent = recent});
}

}  // namespace palimpsest
