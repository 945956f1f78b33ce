// SPDX-License-Identifier: Apache-2.0
// Anticipated queries, ours: what decides answers is which tokens later queries ask for. So every
// live token is scored by the most that any query of a codebook, seen from the present position,
// would notice its removal: p / (1 - p) x |v - o|, where p is its attention weight and o the
// query's output; exact, where LongFlow approximates. In every lane the best stay, and the newest;
// what goes leaves a residue. No statistic of the past is needed. Relatives: Expected
// Attention (arXiv 2510.00636), a Gaussian of queries; SnapKV (arXiv 2404.14469), the last queries;
// TriAttention (arXiv 2604.04921), centres of queries before RoPE.
#include <memory>

#include "common/base/status_macros.h"
#include "common/policy/one_segment.h"
#include "common/policy/policies.h"

namespace palimpsest {
namespace {

constexpr uint32_t kNewestMin = 16;
// A budget goes to chosen tokens first, since those decide answers. Half of what it has beyond this
// goes to the newest tokens: a language model reads them more than anything else
// (docs/anticipate.md).
constexpr uint32_t kChosenFirst = 128;

class AnticipatePolicy final : public OneSegmentPolicy {
 public:
  using OneSegmentPolicy::OneSegmentPolicy;

  // Chooses at every window's end, even while lanes hold less than the budget on average: a lane of
  // small share has more than its own long before. Where none has, nothing comes of it.
  Plan Decide(const SequenceState& state, const Observation& observation) const override {
    Plan plan = OneSegmentPolicy::Decide(state, observation);
    if (!observation.refresh || !plan.anneals.empty() || state.segments.empty()) return plan;
    const Segment& newest = state.segments.back();
    if (newest.pinned) return plan;
    plan.anneals.push_back({.first_position = newest.first_position,
                            .keep = budget_tokens(),
                            .demotions = newest.demotions});
    return plan;
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<const Policy>> NewAnticipatePolicy(const PolicySpec& spec) {
  KV_RETURN_IF_ERROR(RequireBudget(spec, kNewestMin, 16));
  return std::make_unique<const AnticipatePolicy>(spec.budget_tokens,
                                                  Selection{.selector = Selector::kAnticipated,
                                                            .recent = kNewestMin,
                                                            .residue = true,
                                                            .recent_beyond = kChosenFirst,
                                                            .by_share = true});
}

}  // namespace palimpsest
