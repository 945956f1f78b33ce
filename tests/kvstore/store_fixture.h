// SPDX-License-Identifier: Apache-2.0
// What the store's tests share: a clock set by hand, a spec, and a sequence played on both sides.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <utility>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/policy/policy.h"
#include "common/policy/sequence_state.h"
#include "common/rpc/messages.h"

namespace palimpsest {

class FakeClock final : public Clock {
 public:
  Time Now() const override { return now_; }
  void Advance(Duration by) { now_ += by; }

 private:
  Time now_{std::chrono::seconds(1000)};
};

inline PolicySpec TestSpec() {
  PolicySpec spec;
  spec.name = "thinkv";
  spec.budget_tokens = 64;
  spec.window_tokens = 32;
  spec.sparsity_layers = {1, 3};
  spec.theta = {0.3f, 0.6f};
  return spec;
}

// One group boundary, as a worker sees it.
struct Boundary {
  SealedTokens sealed{};
  bool refresh = false;
  std::vector<float> sparsity{};
};

// A worker's own account of a sequence: makes boundaries from a seed, and decides on them locally,
// as the fallback does. What the store answers in lockstep must equal it.
class LocalSequence {
 public:
  LocalSequence(uint64_t seed, PolicySpec spec = TestSpec())
      : random_(seed), spec_(std::move(spec)), policy_(*NewPolicy(spec_)) {}

  Boundary Next() {
    Boundary boundary;
    if (group_ == 0) {
      boundary.sealed = {.token_count = 48, .pinned = true};
    } else {
      boundary.sealed = {.token_count = 16,
                         .label = label_,
                         .starts_window = (group_ - 1) % groups_per_window() == 0};
    }
    boundary.refresh = group_ > 0 && group_ % groups_per_window() == 0;
    if (boundary.refresh) {
      std::uniform_real_distribution<float> sparsity(0.0f, 1.0f);
      for (size_t i = 0; i < spec_.sparsity_layers.size(); ++i) {
        boundary.sparsity.push_back(sparsity(random_));
      }
    }
    ++group_;
    RecordSealed(state_, boundary.sealed);
    return boundary;
  }

  // What the policy says to `boundary`, which was the last one.
  Plan Decide(const Boundary& boundary) const {
    return policy_->Decide(state_, {.refresh = boundary.refresh, .sparsity = boundary.sparsity});
  }

  // Carries a plan out. Returns what a worker acknowledges.
  std::vector<Anneal> Apply(const Plan& plan) {
    std::vector<Anneal> applied;
    for (const Anneal& anneal : plan.anneals) {
      KV_CHECK(RecordAnneal(state_, anneal).ok());
      applied.push_back(anneal);
    }
    if (plan.next_label.has_value()) label_ = *plan.next_label;
    return applied;
  }

  const SequenceState& state() const { return state_; }
  const PolicySpec& spec() const { return spec_; }

 private:
  uint32_t groups_per_window() const { return spec_.window_tokens / 16; }

  std::mt19937_64 random_;
  PolicySpec spec_;
  std::unique_ptr<const Policy> policy_;
  SequenceState state_;
  Thought label_ = Thought::kReasoning;
  uint32_t group_ = 0;
};

}  // namespace palimpsest
