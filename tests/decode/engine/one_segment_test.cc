// SPDX-License-Identifier: Apache-2.0
// Policies that choose k tokens out of all generated ones, through the whole engine with a small
// random model: budgets are kept at every step, whoever plans.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "services/decode/engine/engine.h"
#include "services/decode/model/cpu_model.h"
#include "tests/decode/engine/random_codebook.h"
#include "tests/decode/engine/run_to_end.h"
#include "tests/decode/engine/simulated_store.h"
#include "tests/decode/engine/tiny_config.h"

namespace palimpsest {
namespace {

constexpr uint32_t kBatch = 8;
constexpr uint32_t kQueries = 8;  // kept of every chain
constexpr uint32_t kBudget = 64;

class OneSegmentPolicies : public testing::TestWithParam<std::string> {
 protected:
  void Make(const EngineOptions& options, ControlPlane* control, uint64_t pool_bytes = 16 << 20) {
    engine_.reset();
    tokens_.clear();
    stats_.clear();
    model_ = *NewSyntheticCpuModel(TinyConfig(), 1, {.rows_max = 128, .logit_rows_max = kBatch});
    CacheShape shape = model_->config().cache_shape();
    shape.slot_scores = true;
    shape.residue = true;
    PagePool pool = *PagePool::Create({.shape = shape, .pool_bytes = pool_bytes});
    backend_ = NewTimedBackend(*NewCpuBackend({.shape = shape,
                                               .query_heads = model_->config().query_heads,
                                               .pool_bytes = pool.capacity_bytes(),
                                               .open_groups = kBatch,
                                               .rows_max = 128,
                                               .query_window = kQueries,
                                               .codebook = RandomCodebook(model_->config(), 16)},
                                              1),
                               clock_.get());
    engine_ = std::make_unique<Engine>(options, model_.get(), backend_.get(), std::move(pool),
                                       control, clock_.get(), nullptr);
  }

  static GenerateRequest Request(int seed, uint32_t new_tokens) {
    GenerateRequest request;
    for (int i = 0; i < 5 + seed * 7; ++i) request.prompt.push_back((seed * 31 + i * 7) % 128);
    request.max_new_tokens = new_tokens;
    request.sampling = {.temperature = 1.0f, .seed = static_cast<uint64_t>(seed)};
    request.policy = *DefaultSpec(GetParam());
    request.policy.budget_tokens = kBudget;
    request.policy.formats = ClassFormats::Uniform({Format::kBf16, Format::kBf16});
    return request;
  }

  // Live tokens after every step are at most the budget, a window and an open group, prompt apart.
  void Run(uint32_t requests, uint32_t new_tokens, uint32_t late_tokens = 0) {
    std::vector<GenerateRequest> all;
    for (uint32_t i = 0; i < requests; ++i) all.push_back(Request(static_cast<int>(i), new_tokens));
    const uint32_t most = kBudget + WindowTokensOf(all[0].policy) + kGroupTokens + late_tokens;
    RunToEnd(*engine_, std::move(all), tokens_, stats_);
    if (HasFatalFailure()) return;
    for (const auto& [id, stats] : stats_) {
      EXPECT_LE(stats.live_tokens_peak, stats.prompt_tokens + most);
      EXPECT_GE(stats.live_tokens_peak, stats.prompt_tokens + kBudget) << "it was never reached";
    }
    for (const auto& [id, text] : tokens_) EXPECT_EQ(text.size(), new_tokens);
  }

  std::unique_ptr<Clock> clock_ = NewSteadyClock();
  std::unique_ptr<Model> model_;
  std::unique_ptr<TimedBackend> backend_;
  std::unique_ptr<Engine> engine_;
  std::map<RequestId, std::vector<int32_t>> tokens_;
  std::map<RequestId, RequestStats> stats_;
};

TEST_P(OneSegmentPolicies, KeepTheirBudgetAtEveryStep) {
  Make({.batch_max = kBatch}, nullptr);
  Run(6, 400);
}

TEST_P(OneSegmentPolicies, InLockstepTheStoresPlansAreTheWorkersOwn) {
  Make({.batch_max = kBatch}, nullptr);
  Run(4, 300);
  const auto alone = tokens_;
  std::map<RequestId, uint64_t> plans;
  for (const auto& [id, stats] : stats_) plans[id] = stats.plan_hash;

  SimulatedStore store;
  Make({.batch_max = kBatch, .lockstep = true}, &store);
  Run(4, 300);
  EXPECT_EQ(tokens_, alone);
  for (const auto& [id, stats] : stats_) EXPECT_EQ(stats.plan_hash, plans[id]);
  EXPECT_TRUE(store.counts_agree);
}

TEST_P(OneSegmentPolicies, LatePlansCostRoomAndNothingElse) {
  SimulatedStore store;
  store.delay_polls = 20;  // more than a group
  Make({.batch_max = kBatch}, &store);
  Run(4, 300, 2 * kGroupTokens);
}

TEST_P(OneSegmentPolicies, AFullPoolEndsNobody) {
  SimulatedStore store;
  store.answers = false;  // it has the word, and says nothing
  Make({.batch_max = kBatch}, &store, 360 << 10);
  Run(6, 400, 1000);
  uint32_t reliefs = 0;
  for (const auto& [id, stats] : stats_) reliefs += stats.pressure_reliefs + stats.plans_local;
  EXPECT_GT(reliefs, 0u) << "the pool was never full";
}

INSTANTIATE_TEST_SUITE_P(All, OneSegmentPolicies,
                         testing::Values("anticipate", "h2o", "longflow", "random", "rkv"),
                         [](const auto& info) { return info.param; });

TEST(ServedPolicies, AWorkerRefusesWhatItWasNotStartedFor) {
  const auto clock = NewSteadyClock();
  const auto model = *NewSyntheticCpuModel(TinyConfig(), 1, {.rows_max = 64});
  const CacheShape shape = model->config().cache_shape();
  PagePool pool = *PagePool::Create({.shape = shape, .pool_bytes = 1 << 20});
  const auto backend = NewTimedBackend(*NewCpuBackend({.shape = shape,
                                                       .query_heads = model->config().query_heads,
                                                       .pool_bytes = pool.capacity_bytes(),
                                                       .open_groups = 2},
                                                      1),
                                       clock.get());
  Engine engine({.batch_max = 2, .policies = {"full", "thinkv"}}, model.get(), backend.get(),
                std::move(pool), nullptr, clock.get(), nullptr);
  GenerateRequest request;
  request.prompt = {1, 2, 3};
  request.max_new_tokens = 4;
  request.policy = *DefaultSpec("rkv");
  const auto admissions = engine.Submit({request}, [](GenerateEvent) {});
  EXPECT_EQ(admissions[0].status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(admissions[0].status.message()),
            "policy.name: this worker does not serve 'rkv'; its --policies are full, thinkv");
}

}  // namespace
}  // namespace palimpsest
