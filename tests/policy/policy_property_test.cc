// SPDX-License-Identifier: Apache-2.0
// Properties every policy keeps, over random specs and random histories from 300 seeds each.
#include <algorithm>
#include <random>

#include "common/policy/policy.h"
#include "gtest/gtest.h"

namespace palimpsest {
namespace {

constexpr int kSeeds = 300;

using Random = std::mt19937;

// Uniform in [low, high]; std::uniform_int_distribution differs between libraries.
uint32_t Pick(Random& random, uint32_t low, uint32_t high) {
  return low + static_cast<uint32_t>(random() % (high - low + 1));
}

PolicySpec RandomSpec(Random& random, const std::string& name) {
  PolicySpec spec = *DefaultSpec(name);
  spec.window_tokens = 16 * Pick(random, 1, 8);
  spec.budget_tokens = 16 + spec.window_tokens + Pick(random, 0, 600);
  if (name == "longflow") spec.window_tokens = 16;  // it takes no other
  if (random() % 4 != 0) {
    spec.retention.clear();
    for (uint32_t keep = Pick(random, 8, 96); keep > 0; keep /= Pick(random, 2, 3)) {
      spec.retention.push_back(keep);
    }
  }
  if (random() % 4 != 0) {
    spec.sparsity_layers = {1, 3};
    spec.theta = {0.4f, 0.7f};
  }
  return spec;
}

// One sequence under one policy, checked at every group boundary.
class Life {
 public:
  Life(Random& random, const std::string& name)
      : random_(random), spec_(RandomSpec(random, name)), policy_(*NewPolicy(spec_)) {
    if (random_() % 8 != 0) {
      RecordSealed(state_, {.token_count = Pick(random_, 1, 200), .pinned = true});
    }
  }

  void Live(uint32_t groups) {
    for (uint32_t i = 0; i < groups && !testing::Test::HasFatalFailure(); ++i) {
      const uint32_t in_window = i % (spec_.window_tokens / 16);
      Group(in_window == 0 && !policy_->one_segment(), in_window + 1 == spec_.window_tokens / 16);
    }
  }

 private:
  void Group(bool starts_window, bool refresh) {
    // Late plans of an asynchronous worker: now and then the label changes inside the window.
    if (random_() % 16 == 0 && !policy_->one_segment())
      label_ = kThoughts[random_() % kThoughtCount];
    RecordSealed(state_, {.token_count = 16, .label = label_, .starts_window = starts_window});
    ASSERT_TRUE(Validate(state_).ok());

    std::vector<float> sparsity;
    if (refresh) {
      for (size_t i = 0; i < spec_.sparsity_layers.size(); ++i) {
        sparsity.push_back(static_cast<float>(Pick(random_, 0, 1000)) / 1000.0f);
      }
    }
    const Observation observation = {.refresh = refresh, .sparsity = sparsity};
    const Plan plan = policy_->Decide(state_, observation);
    EXPECT_EQ(plan, policy_->Decide(state_, observation)) << "same input, same plan";
    EXPECT_EQ(plan, (*NewPolicy(spec_))->Decide(state_, observation)) << "no hidden state";
    EXPECT_EQ(plan.next_label.has_value(), refresh);
    CheckOrders(plan, refresh);
    Apply(plan);
    CheckBudget(refresh);
    CheckSettled(refresh);
    label_ = plan.next_label.value_or(label_);
  }

  // Every order names a segment that may be annealed, lowers it, and comes oldest first.
  void CheckOrders(const Plan& plan, bool refresh) {
    int64_t last = -1;
    for (const Anneal& anneal : plan.anneals) {
      EXPECT_GT(static_cast<int64_t>(anneal.first_position), last) << "oldest first, one each";
      last = anneal.first_position;
      const auto segment =
          std::find_if(state_.segments.begin(), state_.segments.end(),
                       [&](const Segment& s) { return s.first_position == anneal.first_position; });
      ASSERT_NE(segment, state_.segments.end());
      EXPECT_FALSE(segment->pinned);
      EXPECT_GE(anneal.demotions, segment->demotions);
      // Lanes of small share have more than is kept of them before the mean has.
      EXPECT_TRUE(anneal.keep < segment->live_count || anneal.demotions > segment->demotions ||
                  policy_->selection().by_share)
          << "an order that does nothing";
      EXPECT_TRUE(refresh || segment != state_.segments.end() - 1) << "it is being written";
      EXPECT_TRUE(!policy_->one_segment() || refresh) << "chooses at the end of a window only";
    }
  }

  void Apply(const Plan& plan) {
    const SequenceState before = state_;
    for (const Anneal& anneal : plan.anneals) ASSERT_TRUE(RecordAnneal(state_, anneal).ok());
    const SequenceState once = state_;
    for (const Anneal& anneal : plan.anneals) ASSERT_TRUE(RecordAnneal(state_, anneal).ok());
    EXPECT_EQ(state_, once) << "replay changes nothing";
    ASSERT_TRUE(Validate(state_).ok());
    EXPECT_EQ(state_.sealed_tokens(), before.sealed_tokens());
    EXPECT_EQ(state_.pinned_tokens(), before.pinned_tokens());
    ASSERT_EQ(state_.segments.size(), before.segments.size());
    for (size_t i = 0; i < before.segments.size(); ++i) {
      EXPECT_LE(state_.segments[i].live_count, before.segments[i].live_count);
      EXPECT_EQ(state_.segments[i].label, before.segments[i].label);
    }
  }

  // Live <= k, or all that may be annealed is: R at the floor, T and E gone. And the order holds:
  // nobody is dropped while anyone is above the floor, no E before every T.
  void CheckBudget(bool refresh) {
    if (spec_.name == "full") return;
    if (spec_.name == "window") {
      const uint32_t written = state_.sealed_tokens() - state_.pinned_tokens();
      EXPECT_EQ(state_.live_tokens(), std::min(written, spec_.budget_tokens)) << "exact";
      return;
    }
    if (policy_->one_segment()) {
      EXPECT_LE(state_.segments.size(), 2u) << "the prompt and the rest";
      const uint32_t written = state_.sealed_tokens() - state_.pinned_tokens();
      // LongFlow makes room for the next group; the others take it up to the next window's end.
      const uint32_t target = spec_.budget_tokens - (spec_.name == "longflow" ? 16 : 0);
      if (refresh) {
        EXPECT_EQ(state_.live_tokens(), std::min(written, target));
      }
      EXPECT_LE(state_.live_tokens(), target + spec_.window_tokens);
      return;
    }
    if (state_.live_tokens() <= spec_.budget_tokens) return;
    const size_t end = state_.segments.size() - (refresh ? 0 : 1);
    for (size_t i = 0; i < end; ++i) {
      const Segment& segment = state_.segments[i];
      if (segment.pinned) continue;
      const uint32_t least = segment.label == Thought::kReasoning ? spec_.retention.back() : 0;
      EXPECT_LE(segment.live_count, least) << "over k with something left to lower";
    }
  }

  // A plan is the whole of it: asked again, with no news, the policy orders nothing new.
  void CheckSettled(bool refresh) {
    const std::vector<float> looks_r(spec_.sparsity_layers.size(), 0.5f);
    SequenceState after = state_;
    const Plan plan = policy_->Decide(state_, {.refresh = refresh, .sparsity = looks_r});
    for (const Anneal& anneal : plan.anneals) ASSERT_TRUE(RecordAnneal(after, anneal).ok());
    EXPECT_EQ(after, state_);
    EXPECT_TRUE(plan.anneals.empty() || policy_->selection().by_share);
    EXPECT_TRUE(policy_->Decide(state_, {}).empty());
  }

  Random& random_;
  const PolicySpec spec_;
  const std::unique_ptr<const Policy> policy_;
  SequenceState state_;
  Thought label_ = Thought::kReasoning;
};

class EveryPolicy : public testing::TestWithParam<std::string> {};

TEST_P(EveryPolicy, KeepsItsPromisesAtEveryGroupOfARandomLife) {
  for (int seed = 0; seed < kSeeds; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Random random(static_cast<uint32_t>(seed));
    Life(random, GetParam()).Live(Pick(random, 1, 120));
    if (HasFailure()) return;  // the first seed tells enough
  }
}

INSTANTIATE_TEST_SUITE_P(All, EveryPolicy, testing::ValuesIn(PolicyNames()),
                         [](const auto& info) { return info.param; });

// The drop order of one decision, seen from outside.
TEST(ThinKvProperty, DropsTBeforeEAndNothingWhileAnySegmentIsAboveTheFloor) {
  for (int seed = 0; seed < kSeeds; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Random random(static_cast<uint32_t>(seed));
    const auto policy = *NewPolicy({.budget_tokens = Pick(random, 16, 200)});
    SequenceState state;
    for (uint32_t i = Pick(random, 1, 60); i > 0; --i) {
      RecordSealed(state, {.token_count = 128,
                           .label = kThoughts[random() % kThoughtCount],
                           .starts_window = true});
    }
    for (const Anneal& anneal : policy->Decide(state, {.refresh = true}).anneals) {
      ASSERT_TRUE(RecordAnneal(state, anneal).ok());
    }
    bool above_floor = false, dropped = false, live_t = false, dropped_e = false;
    bool kept_t_before_dropped = false, live_seen = false;
    for (const Segment& s : state.segments) {
      above_floor |= s.live_count > 4;
      dropped |= s.live_count == 0;
      EXPECT_TRUE(s.label != Thought::kReasoning || s.live_count > 0) << "R is never dropped";
      if (s.label == Thought::kExecution) dropped_e |= s.live_count == 0;
      if (s.label != Thought::kTransition) continue;
      kept_t_before_dropped |= live_seen && s.live_count == 0;
      live_seen |= s.live_count > 0;
      live_t |= s.live_count > 0;
    }
    EXPECT_FALSE(above_floor && dropped);
    EXPECT_FALSE(live_t && dropped_e);
    EXPECT_FALSE(kept_t_before_dropped) << "the oldest T goes first";
  }
}

}  // namespace
}  // namespace palimpsest
