// SPDX-License-Identifier: Apache-2.0
// The control: which k tokens stay after the prompt is drawn at random, in every lane by itself
// (as in arXiv 2609.03430). A policy that does not beat it at equal bytes is not worth shipping.
#include <memory>

#include "common/policy/one_segment.h"
#include "common/policy/policies.h"

namespace palimpsest {

absl::StatusOr<std::unique_ptr<const Policy>> NewRandomPolicy(const PolicySpec& spec) {
  return std::make_unique<const OneSegmentPolicy>(spec.budget_tokens,
                                                  Selection{.selector = Selector::kRandom});
}

}  // namespace palimpsest
