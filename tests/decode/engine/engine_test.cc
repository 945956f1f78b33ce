// SPDX-License-Identifier: Apache-2.0
// What becomes of requests: chains, their ends, and refusals.
#include <gmock/gmock.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "tests/decode/engine/engine_fixture.h"

namespace palimpsest {
namespace {

TEST_F(EngineTest, AChainSaysTheSameAloneAsInABatch) {
  std::map<int, std::vector<int32_t>> alone;
  for (int seed = 0; seed < 6; ++seed) {
    Make();
    Submit({Request(seed, 60)});
    RunAll();
    alone[seed] = outcomes_.begin()->second.tokens;
    ASSERT_EQ(alone[seed].size(), 60u);
  }
  Make();
  std::vector<GenerateRequest> requests;
  for (int seed = 0; seed < 6; ++seed) requests.push_back(Request(seed, 60));
  const std::vector<Admission> admissions = Submit(std::move(requests));
  RunAll();
  for (int seed = 0; seed < 6; ++seed) {
    EXPECT_EQ(outcomes_[admissions[seed].request].tokens, alone[seed]) << "seed " << seed;
  }
}

TEST_F(EngineTest, AStopTokenEndsTheTextAndBelongsToIt) {
  Make();
  Submit({Request(1, 50)});
  RunAll();
  const std::vector<int32_t> all = outcomes_.begin()->second.tokens;
  Make();
  GenerateRequest request = Request(1, 50);
  request.stop_tokens = {all[20]};
  Submit({request});
  RunAll();
  const Outcome& outcome = outcomes_.begin()->second;
  EXPECT_EQ(outcome.finished, FinishReason::kStop);
  EXPECT_EQ(outcome.tokens.back(), all[20]);
  EXPECT_LE(outcome.tokens.size(), 21u);
}

TEST_F(EngineTest, BadRequestsAreRefusedByName) {
  Make();
  GenerateRequest none = Request(1, 10);
  none.prompt.clear();
  GenerateRequest strange = Request(1, 10);
  strange.prompt[0] = 128;
  GenerateRequest endless = Request(1, 9000);
  GenerateRequest unknown = Request(1, 10);
  unknown.policy.name = "nosuch";
  GenerateRequest layer = Request(1, 10, "thinkv");
  layer.policy.sparsity_layers = {7};
  layer.policy.theta = {0.1f, 0.2f};
  GenerateRequest nobody = Request(1, 10);
  nobody.tenant = "a/../b";
  GenerateRequest good = Request(1, 10);
  const std::vector<Admission> admissions =
      Submit({none, strange, endless, unknown, layer, nobody, good});
  const std::vector<std::string> words = {"prompt", "token 128", "max_new_tokens",
                                          "nosuch", "layer 7",   "tenant"};
  for (size_t i = 0; i < words.size(); ++i) {
    EXPECT_EQ(admissions[i].status.code(), absl::StatusCode::kInvalidArgument) << words[i];
    EXPECT_THAT(std::string(admissions[i].status.message()), testing::HasSubstr(words[i]));
  }
  EXPECT_TRUE(admissions.back().status.ok());
  RunAll();
  EXPECT_EQ(outcomes_.size(), 1u);
}

TEST_F(EngineTest, ACancelledChainGivesEverythingBack) {
  Make();
  const std::vector<Admission> admissions = Submit({Request(1, 4000), Request(2, 50)});
  int step = 0;
  each_step_ = [&] {
    if (++step == 20) engine_->Cancel(admissions[0].request);
  };
  RunAll();
  const Outcome& cancelled = outcomes_[admissions[0].request];
  EXPECT_EQ(cancelled.finished, FinishReason::kCancelled);
  EXPECT_EQ(cancelled.tokens.size(), 20u);
  EXPECT_EQ(cancelled.stats.new_tokens, 20u);
  EXPECT_EQ(cancelled.stats.steps, 20u);
  EXPECT_EQ(outcomes_[admissions[1].request].finished, FinishReason::kLength);
  EXPECT_EQ(engine_->Snapshot().pool.used_bytes, 0u);
}

TEST_F(EngineTest, ADrainingEngineRefusesNewRequestsAndFinishesOldOnes) {
  Make();
  Submit({Request(1, 50)});
  engine_->Drain();
  const std::vector<Admission> late = Submit({Request(2, 50)});
  EXPECT_EQ(late[0].status.code(), absl::StatusCode::kUnavailable);
  EXPECT_GT(late[0].retry_after_ms, 0u);
  RunAll();
  EXPECT_EQ(outcomes_.begin()->second.finished, FinishReason::kLength);
}

TEST_F(EngineTest, AnEngineThatIsStoppedSendsWhatHasBeenChosen) {
  Make();
  Submit({Request(1, 50)});
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(engine_->Step().ok());
  const Outcome& outcome = outcomes_.begin()->second;
  EXPECT_EQ(outcome.tokens.size(), 9u);
  engine_->Stop();
  EXPECT_TRUE(engine_->Run().ok());
  EXPECT_EQ(outcome.tokens.size(), 10u);
  EXPECT_EQ(outcome.finished, FinishReason::kError);
  EXPECT_EQ(outcome.error.code(), absl::StatusCode::kUnavailable);
}

// Remembers whose times it was told.
class KernelNames final : public EngineObserver {
 public:
  void OnStep(double, uint32_t, uint32_t) override {}
  void OnKernel(absl::string_view kernel, double) override { names.emplace(kernel); }
  void OnRefused(const absl::Status&) override {}
  void OnLabel(Thought) override {}
  void OnPlan(const Plan&, bool, double) override {}
  void OnEvicted(uint32_t) override {}
  void OnSnapshot(const EngineSnapshot&) override {}
  std::set<std::string> names;
};

TEST_F(EngineTest, KernelsAreTimedOneByOneOnlyWhereACallsTimeIsTheKernels) {
  for (const bool asynchronous : {false, true}) {
    Make();
    const CacheShape shape = model_->config().cache_shape();
    PagePool pool = *PagePool::Create({.shape = shape, .pool_bytes = 16 << 20});
    backend_ = NewTimedBackend(*NewCpuBackend({.shape = shape,
                                               .query_heads = model_->config().query_heads,
                                               .pool_bytes = pool.capacity_bytes(),
                                               .open_groups = 32},
                                              1),
                               clock_.get(), asynchronous);
    KernelNames observer;
    engine_ = std::make_unique<Engine>(EngineOptions{}, model_.get(), backend_.get(),
                                       std::move(pool), nullptr, clock_.get(), &observer);
    Submit({Request(1, 40)});
    RunAll();
    const std::set<std::string> expected =
        asynchronous ? std::set<std::string>{"device"}
                     : std::set<std::string>{"append", "attend", "matmul", "seal", "zero"};
    EXPECT_EQ(observer.names, expected);
    engine_.reset();
  }
}

}  // namespace
}  // namespace palimpsest
