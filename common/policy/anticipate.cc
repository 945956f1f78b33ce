// SPDX-License-Identifier: Apache-2.0
// Anticipated queries, ours: what decides answers is which tokens later queries ask for. So every
// live token is scored by the most that any query of a codebook, seen from the present position,
// would notice its removal: p / (1 - p) x |v - o|, where p is its attention weight and o the
// query's output; exact, where LongFlow approximates. In every lane the best stay, and the
// newest 16; what goes leaves a residue. No statistic of the past is needed. Relatives: Expected
// Attention (arXiv 2510.00636), a Gaussian of queries; SnapKV (arXiv 2404.14469), the last queries;
// TriAttention (arXiv 2604.04921), centres of queries before RoPE.
#include <memory>

#include "common/base/status_macros.h"
#include "common/policy/one_segment.h"
#include "common/policy/policies.h"

namespace palimpsest {
namespace {

constexpr uint32_t kNewestTokens = 16;

}  // namespace

absl::StatusOr<std::unique_ptr<const Policy>> NewAnticipatePolicy(const PolicySpec& spec) {
  KV_RETURN_IF_ERROR(RequireBudget(spec, kNewestTokens, 16));
  return std::make_unique<const OneSegmentPolicy>(
      spec.budget_tokens,
      Selection{.selector = Selector::kAnticipated, .recent = kNewestTokens, .residue = true});
}

}  // namespace palimpsest
