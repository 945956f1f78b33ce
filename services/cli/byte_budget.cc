// SPDX-License-Identifier: Apache-2.0
#include "services/cli/byte_budget.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "common/base/status_macros.h"
#include "common/policy/windows.h"
#include "services/decode/pool/page_pool.h"
#include "services/decode/pool/sequence_cache.h"
#include "services/decode/served_policies.h"

namespace palimpsest::cli {
namespace {

// There is nothing to compute and no page to zero.
class NoBackend final : public Backend {
 public:
  ActivationType activation_type() const override { return ActivationType::kFloat32; }
  absl::Status BeginStep(absl::Span<const SequenceView>, absl::Span<const StepRows>) override {
    return absl::OkStatus();
  }
  absl::Status Append(int, const NewTokens&) override { return absl::OkStatus(); }
  absl::Status Attend(int, const LayerActivations&) override { return absl::OkStatus(); }
  absl::Status MeasureSparsity(int, absl::Span<const uint32_t>, const LayerActivations&,
                               absl::Span<float>) override {
    return absl::OkStatus();
  }
  absl::Status Seal(absl::Span<const SequenceView>, absl::Span<const SealOrder>) override {
    return absl::OkStatus();
  }
  absl::Status Anneal(absl::Span<const SequenceView>, absl::Span<const AnnealOrder>) override {
    return absl::OkStatus();
  }
  absl::Status Zero(PageOffset, uint64_t) override { return absl::OkStatus(); }
  absl::Status ZeroOpenGroup(uint32_t) override { return absl::OkStatus(); }
  absl::Status Read(PageOffset, absl::Span<uint8_t>) const override { return absl::OkStatus(); }
  absl::Status Synchronize() override { return absl::OkStatus(); }
  absl::Status AwaitSparsity() override { return absl::OkStatus(); }
};

struct ByteSteps {
  double held = 0;
  double full = 0;
};

// One chain's life as the engine leads it, without its text.
class PretendedChain {
 public:
  PretendedChain(const PolicySpec& spec, const Policy& policy, const CacheCosts& costs,
                 PagePool* pool, Backend* backend, const ChainLength& length)
      : policy_(policy),
        length_(length),
        windows_({.prompt_tokens = length.prompt_tokens,
                  .window_tokens = WindowTokensOf(spec),
                  .one_segment = policy.one_segment()}),
        cache_(pool, backend,
               {.formats = spec.formats,
                .prompt_tokens = length.prompt_tokens,
                .selection = policy.selection(),
                .query_bytes = QueryWindowBytes(costs.shape, costs.query_heads, kQueriesKept),
                .sharing = SharingUnder(spec, policy,
                                        {.shares = costs.lane_shares,
                                         .lag_tokens = costs.plan_lag_tokens,
                                         .tokens_max = length.tokens},
                                        length.prompt_tokens)}) {}

  absl::Status Run(ByteSteps* steps) {
    while (cache_.token_count() < length_.tokens) {
      const uint32_t done = cache_.token_count();
      const uint32_t room = kGroupTokens - cache_.open_count();
      const uint32_t prompt_left = length_.prompt_tokens - std::min(length_.prompt_tokens, done);
      cache_.CommitAppend(prompt_left > 0 ? std::min(room, prompt_left) : 1);
      if (cache_.open_count() == kGroupTokens) KV_RETURN_IF_ERROR(Boundary());
      steps->held += static_cast<double>(cache_.footprint_bytes());
      steps->full += static_cast<double>(cache_.full_bytes());
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Boundary() {
    KV_RETURN_IF_ERROR(cache_.PlanSeal(Thought::kReasoning, 0).status());
    const auto sealed = cache_.CommitSeal(Thought::kReasoning, windows_.starts());
    const bool refresh = windows_.Seal(sealed.back(), cache_.state().sealed_tokens());
    const Plan plan = policy_.Decide(cache_.state(), {.refresh = refresh});
    for (const auto& anneal : plan.anneals) {
      KV_RETURN_IF_ERROR(cache_.CommitAnneal(anneal).status());
    }
    return absl::OkStatus();
  }

  const Policy& policy_;
  const ChainLength length_;
  Windows windows_;
  SequenceCache cache_;
};

// Holds the longest chain in any format, and half as much again for holes.
absl::StatusOr<PagePool> PoolFor(const CacheShape& shape, absl::Span<const ChainLength> chains) {
  uint64_t longest = 0;
  for (const ChainLength& chain : chains) longest = std::max<uint64_t>(longest, chain.tokens);
  const uint64_t page_bytes = MakePageLayout(shape, PageFormat{}).page_bytes;
  const uint64_t pages = 3 * (longest / kSlotsPerPage + 8) / 2;
  return PagePool::Create(
      {.shape = shape, .pool_bytes = pages * page_bytes + 8 * ChooseFrameBytes(shape)});
}

}  // namespace

absl::StatusOr<double> MeanBytesPercent(const PolicySpec& spec, const CacheCosts& costs,
                                        absl::Span<const ChainLength> chains) {
  KV_ASSIGN_OR_RETURN(const std::unique_ptr<const Policy> policy, NewPolicy(spec));
  const Selection selection = policy->selection();
  CacheCosts own = costs;
  own.shape.slot_scores = SlotScoreOf(selection.selector) != SlotScore::kNone;
  own.shape.residue = selection.residue;
  KV_ASSIGN_OR_RETURN(PagePool pool, PoolFor(own.shape, chains));
  NoBackend backend;
  ByteSteps steps;
  for (const ChainLength& chain : chains) {
    PretendedChain pretended(spec, *policy, own, &pool, &backend, chain);
    KV_RETURN_IF_ERROR(pretended.Run(&steps));
  }
  return steps.full > 0 ? 100 * steps.held / steps.full : 0.0;
}

absl::StatusOr<ByteBudget> BudgetForBytes(PolicySpec spec, const CacheCosts& costs,
                                          absl::Span<const ChainLength> chains, double percent) {
  const auto percent_at = [&](uint32_t budget) {
    spec.budget_tokens = budget;
    return MeanBytesPercent(spec, costs, chains);
  };
  uint32_t least = kWindowTokensMin;  // the least that any policy takes; some want more
  for (spec.budget_tokens = least; !NewPolicy(spec).ok(); spec.budget_tokens = ++least) {
    if (least == kWindowTokensMax) return NewPolicy(spec).status();
  }
  uint32_t longest = least + 1;
  for (const ChainLength& chain : chains) longest = std::max(longest, chain.tokens);
  ByteBudget low{.budget_tokens = least}, high{.budget_tokens = longest};
  KV_ASSIGN_OR_RETURN(low.percent, percent_at(low.budget_tokens));
  KV_ASSIGN_OR_RETURN(high.percent, percent_at(high.budget_tokens));
  if (low.percent >= percent) return low;
  while (high.budget_tokens - low.budget_tokens > 1 && high.percent > percent) {
    ByteBudget middle{.budget_tokens = (low.budget_tokens + high.budget_tokens) / 2};
    KV_ASSIGN_OR_RETURN(middle.percent, percent_at(middle.budget_tokens));
    (middle.percent <= percent ? low : high) = middle;
  }
  return std::abs(high.percent - percent) < std::abs(low.percent - percent) ? high : low;
}

}  // namespace palimpsest::cli
