// SPDX-License-Identifier: Apache-2.0
// Which budget in tokens makes a policy hold a wanted share of the full cache's bytes. Found by
// running the policy and the worker's own book-keeping on chains of given lengths, without a model:
// so holes, pages that are not full, the open group and the tables count as they will.
//
// What cannot be known before is left out: thoughts are all of class R, and plans are never late.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/policy/policy.h"
#include "kernels/layout.h"

namespace palimpsest::cli {

struct ChainLength {
  uint32_t prompt_tokens = 0;
  uint32_t tokens = 0;  // prompt included
};

// The model, as far as it decides about bytes.
struct CacheCosts {
  CacheShape shape;  // slot_scores and residue are set here by what the policy needs
  int query_heads = 0;
  // QueryCodebook's, for policies that go by them; empty where a worker has none.
  std::vector<float> lane_shares = {};
  uint32_t plan_lag_tokens = 0;  // LaneSharing's
};

// All bytes of the chains' caches, summed over all their steps, in per cent of what K and V of the
// same tokens would have taken in bf16. InvalidArgument for a spec that is none.
absl::StatusOr<double> MeanBytesPercent(const PolicySpec& spec, const CacheCosts& costs,
                                        absl::Span<const ChainLength> chains);

struct ByteBudget {
  uint32_t budget_tokens = 0;
  double percent = 0;  // what it comes to
};
// The budget that comes nearest to `percent`; the least that the policy takes where that is more.
absl::StatusOr<ByteBudget> BudgetForBytes(PolicySpec spec, const CacheCosts& costs,
                                          absl::Span<const ChainLength> chains, double percent);

}  // namespace palimpsest::cli
