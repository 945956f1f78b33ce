// SPDX-License-Identifier: Apache-2.0
// Who plans, when plans come, and what they cost: with a store, without one, and when it goes.
#include <vector>

#include "tests/decode/engine/engine_fixture.h"
#include "tests/decode/engine/simulated_store.h"

namespace palimpsest {
namespace {

TEST_F(EngineTest, ThinKvKeepsItsBudgetAtEveryStepAndTellsWhatItCost) {
  Make();
  GenerateRequest request = Request(3, 900, "thinkv", 200);
  UseLabels(request);
  Submit({request});
  // The segment being written and the open group are not yet subject to the budget.
  const uint32_t bound = 200 + request.policy.window_tokens + kGroupTokens +
                         static_cast<uint32_t>(request.prompt.size());
  each_step_ = [&] {
    for (const ChainSnapshot& chain : engine_->Snapshot().chains) {
      EXPECT_LE(chain.live_tokens, bound);
    }
  };
  RunAll();
  const RequestStats& stats = outcomes_.begin()->second.stats;
  EXPECT_EQ(outcomes_.begin()->second.finished, FinishReason::kLength);
  EXPECT_GT(stats.plans_local, 0u);
  EXPECT_EQ(stats.timeline.size(), 6u);  // windows end at 144, 272, ... 784
  EXPECT_LT(stats.footprint_byte_steps, stats.full_byte_steps);
  EXPECT_LT(stats.footprint_bytes_peak, stats.full_bytes_end / 2);
}

TEST_F(EngineTest, InLockstepTheStoresPlansAreThoseTheWorkerWouldMakeItself) {
  const auto run = [&](ControlPlane* control) {
    Make({.lockstep = control != nullptr}, control);
    std::vector<GenerateRequest> requests;
    for (int seed = 0; seed < 4; ++seed) {
      requests.push_back(Request(seed, 500, "thinkv", 150));
      UseLabels(requests.back());
    }
    Submit(std::move(requests));
    RunAll();
    return outcomes_;
  };
  const auto local = run(nullptr);
  SimulatedStore store;
  const auto remote = run(&store);
  ASSERT_EQ(local.size(), remote.size());
  for (const auto& [id, outcome] : local) {
    EXPECT_EQ(outcome.tokens, remote.at(id).tokens);
    EXPECT_EQ(outcome.stats.plan_hash, remote.at(id).stats.plan_hash);
    EXPECT_EQ(outcome.stats.timeline, remote.at(id).stats.timeline);
    EXPECT_EQ(remote.at(id).stats.plans_local, 0u);
  }
  EXPECT_TRUE(store.counts_agree);
  EXPECT_EQ(store.finished, 4u);
}

TEST_F(EngineTest, LatePlansCostCompressionAndNothingElse) {
  SimulatedStore store;
  store.delay_polls = 40;
  Make({}, &store);
  GenerateRequest request = Request(2, 800, "thinkv", 150);
  UseLabels(request);
  Submit({request});
  RunAll();
  const RequestStats& stats = outcomes_.begin()->second.stats;
  EXPECT_EQ(outcomes_.begin()->second.finished, FinishReason::kLength);
  EXPECT_GT(stats.plans_applied, 0u);
  EXPECT_EQ(stats.plans_local, 0u);
  EXPECT_GE(stats.plan_lag_tokens_max, 40u);
  EXPECT_TRUE(store.counts_agree);
}

TEST_F(EngineTest, WithoutAnAnswerFromAConnectedStoreNothingIsEvicted) {
  SimulatedStore store;
  store.answers = false;
  Make({}, &store);
  Submit({Request(2, 400, "thinkv", 64)});
  RunAll();
  EXPECT_EQ(outcomes_.begin()->second.stats.plans_applied, 0u);
  EXPECT_EQ(outcomes_.begin()->second.finished, FinishReason::kLength);
}

TEST_F(EngineTest, WhenTheStoreGoesTheWorkerPlansAndWhenItReturnsItRegistersAgain) {
  SimulatedStore store;
  Make({}, &store);
  Submit({Request(4, 900, "thinkv", 150)});
  int step = 0;
  each_step_ = [&] {
    ++step;
    if (step == 300) store.present = StoreState::kConnecting;
    if (step == 600) {
      store.present = StoreState::kConnected;
      store.lost = {outcomes_.begin()->first};
    }
  };
  RunAll();
  const RequestStats& stats = outcomes_.begin()->second.stats;
  EXPECT_GT(stats.plans_local, 0u);
  EXPECT_GT(stats.plans_applied, stats.plans_local);
  EXPECT_GE(store.registrations, 2u);
  EXPECT_TRUE(store.counts_agree);
}

}  // namespace
}  // namespace palimpsest
