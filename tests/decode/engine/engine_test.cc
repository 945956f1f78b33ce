// SPDX-License-Identifier: Apache-2.0
// The engine with a small random model: what it says means nothing, but it says it for good
// reasons.
#include "services/decode/engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "services/decode/model/cpu_model.h"
#include "tests/decode/engine/simulated_store.h"
#include "tests/decode/engine/tiny_config.h"

namespace palimpsest {
namespace {

struct Outcome {
  std::vector<int32_t> tokens;
  std::optional<FinishReason> finished;
  absl::Status error;
  RequestStats stats;
};

class EngineTest : public testing::Test {
 protected:
  void Make(EngineOptions options = {}, ControlPlane* control = nullptr,
            uint64_t pool_bytes = 16 << 20, Model* model = nullptr) {
    engine_.reset();
    outcomes_.clear();
    model_ = *NewSyntheticCpuModel(TinyConfig(), 1, {.rows_max = 128, .logit_rows_max = 32});
    const CacheShape shape = model_->config().cache_shape();
    PagePool pool = *PagePool::Create({.shape = shape, .pool_bytes = pool_bytes});
    backend_ = NewTimedBackend(*NewCpuBackend({.shape = shape,
                                               .query_heads = model_->config().query_heads,
                                               .pool_bytes = pool.capacity_bytes(),
                                               .open_groups = options.batch_max,
                                               .rows_max = 128},
                                              1),
                               clock_.get());
    engine_ =
        std::make_unique<Engine>(options, model != nullptr ? model : model_.get(), backend_.get(),
                                 std::move(pool), control, clock_.get(), nullptr);
  }

  static GenerateRequest Request(int seed, uint32_t new_tokens, const std::string& policy = "full",
                                 uint32_t budget = 0) {
    GenerateRequest request;
    for (int i = 0; i < 5 + seed % 40; ++i) request.prompt.push_back((seed * 31 + i * 7) % 128);
    request.max_new_tokens = new_tokens;
    request.sampling = {.temperature = 1.0f, .seed = static_cast<uint64_t>(seed)};
    request.policy = *DefaultSpec(policy);
    if (budget > 0) request.policy.budget_tokens = budget;
    return request;
  }

  std::vector<Admission> Submit(std::vector<GenerateRequest> requests) {
    return engine_->Submit(std::move(requests), [this](GenerateEvent event) {
      Outcome& outcome = outcomes_[event.request];
      outcome.tokens.insert(outcome.tokens.end(), event.tokens.begin(), event.tokens.end());
      outcome.finished = event.finished;
      outcome.error = event.error;
      if (event.stats.has_value()) outcome.stats = *event.stats;
    });
  }

  void RunAll() {
    while (true) {
      const absl::StatusOr<bool> worked = engine_->Step();
      ASSERT_TRUE(worked.ok()) << worked.status();
      if (!*worked) return;
      if (each_step_) each_step_();
    }
  }

  std::unique_ptr<Clock> clock_ = NewSteadyClock();
  std::unique_ptr<Model> model_;
  std::unique_ptr<TimedBackend> backend_;
  std::unique_ptr<Engine> engine_;
  std::map<RequestId, Outcome> outcomes_;
  std::function<void()> each_step_;
};

// A model that says of one row, at one of its steps, that its logits are not finite.
class FailingModel final : public Model {
 public:
  FailingModel(Model* model, int step, size_t row) : model_(model), step_(step), row_(row) {}
  int started() const { return started_; }
  int most_ahead() const { return most_ahead_; }
  const ModelConfig& config() const override { return model_->config(); }
  int rows_max() const override { return model_->rows_max(); }
  int logit_rows_max() const override { return model_->logit_rows_max(); }
  bool may_observe(int layer) const override { return layer != 1; }
  uint64_t weight_bytes() const override { return model_->weight_bytes(); }
  absl::Status Forward(const StepBatch& batch, Backend& backend,
                       absl::Span<float> logits) override {
    return model_->Forward(batch, backend, logits);
  }
  absl::Status StartGenerate(const StepBatch& batch, Backend& backend,
                             absl::Span<const SampleSpec> samples) override {
    ++started_;
    most_ahead_ = std::max(most_ahead_, ++ahead_);
    return model_->StartGenerate(batch, backend, samples);
  }
  absl::Status AwaitTokens(absl::Span<int32_t> tokens) override {
    --ahead_;
    const absl::Status status = model_->AwaitTokens(tokens);
    if (step_-- == 0) tokens[row_] = kNoToken;
    return status;
  }

 private:
  Model* const model_;
  int step_;
  const size_t row_;
  int started_ = 0, ahead_ = 0, most_ahead_ = 0;
};

// Thresholds that make every label come up on random attention.
void UseLabels(GenerateRequest& request) {
  request.policy.sparsity_layers = {0, 1};
  request.policy.theta = {0.01f, 0.05f};
}

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

TEST_F(EngineTest, AChainWhoseLogitsAreNotFiniteEndsWithAnErrorAndTheOthersGoOn) {
  const auto healthy = NewSyntheticCpuModel(TinyConfig(), 1, {.rows_max = 128});
  ASSERT_TRUE(healthy.ok());
  FailingModel failing(healthy->get(), 20, 1);
  Make({}, nullptr, 16 << 20, &failing);
  const std::vector<Admission> admissions = Submit({Request(1, 60), Request(2, 60)});
  RunAll();
  const Outcome& good = outcomes_[admissions[0].request];
  const Outcome& bad = outcomes_[admissions[1].request];
  EXPECT_EQ(good.finished, FinishReason::kLength);
  EXPECT_EQ(good.tokens.size(), 60u);
  EXPECT_EQ(bad.finished, FinishReason::kError);
  EXPECT_EQ(bad.error.code(), absl::StatusCode::kDataLoss);
  EXPECT_LT(bad.tokens.size(), 60u);
  EXPECT_EQ(engine_->Snapshot().pool.used_bytes, 0u);
}

TEST_F(EngineTest, ALayerThatTheModelDoesNotKeepTheQueriesOfIsRefused) {
  const auto model = NewSyntheticCpuModel(TinyConfig(), 1, {.rows_max = 128});
  ASSERT_TRUE(model.ok());
  FailingModel keeps_layer_0(model->get(), -1, 0);
  Make({}, nullptr, 16 << 20, &keeps_layer_0);
  GenerateRequest request = Request(1, 10, "thinkv");
  UseLabels(request);
  const std::vector<Admission> admissions = Submit({request});
  EXPECT_EQ(admissions[0].status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(admissions[0].status.message()), testing::HasSubstr("layer 1"));
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

TEST_F(EngineTest, AStepIsOrderedBeforeTheTokensOfTheStepBeforeAreTaken) {
  const auto model = NewSyntheticCpuModel(TinyConfig(), 1, {.rows_max = 128});
  ASSERT_TRUE(model.ok());
  FailingModel counting(model->get(), -1, 0);
  Make({}, nullptr, 16 << 20, &counting);
  Submit({Request(1, 50)});  // six tokens of prompt
  RunAll();
  EXPECT_EQ(counting.most_ahead(), 2);
  EXPECT_EQ(counting.started(), 50);  // its length is known beforehand
  EXPECT_EQ(engine_->Snapshot().steps, 50u);
}

TEST_F(EngineTest, TheStepThatAStopTokenComesTooLateForCountsForNothing) {
  const auto model = NewSyntheticCpuModel(TinyConfig(), 1, {.rows_max = 128});
  ASSERT_TRUE(model.ok());
  FailingModel counting(model->get(), -1, 0);
  Make({}, nullptr, 16 << 20, &counting);
  Submit({Request(1, 50)});
  RunAll();
  const Outcome all = outcomes_.begin()->second;
  const int started = counting.started();
  Make({}, nullptr, 16 << 20, &counting);
  GenerateRequest request = Request(1, 1000);
  request.stop_tokens = {all.tokens.back()};
  // Among what is chosen before, too: then it ends there.
  const auto stop = std::find(all.tokens.begin(), all.tokens.end(), all.tokens.back());
  const auto length = static_cast<uint32_t>(stop - all.tokens.begin()) + 1;
  Submit({request});
  RunAll();
  const Outcome& outcome = outcomes_.begin()->second;
  EXPECT_EQ(outcome.finished, FinishReason::kStop);
  EXPECT_EQ(outcome.tokens, std::vector<int32_t>(all.tokens.begin(), stop + 1));
  EXPECT_EQ(outcome.stats.new_tokens, length);
  EXPECT_EQ(outcome.stats.steps, length);
  EXPECT_EQ(engine_->Snapshot().steps, length);
  EXPECT_EQ(counting.started() - started, static_cast<int>(length) + 1);
  if (length == 50) {
    EXPECT_EQ(outcome.stats.footprint_byte_steps, all.stats.footprint_byte_steps);
    EXPECT_EQ(outcome.stats.full_bytes_end, all.stats.full_bytes_end);
  }
  EXPECT_EQ(engine_->Snapshot().pool.used_bytes, 0u);
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

TEST_F(EngineTest, ARequestThatCanNeverFitIsRefusedAndRunningChainsFinish) {
  const uint64_t small = 2 * ChooseFrameBytes(TinyConfig().cache_shape());
  Make({}, nullptr, small);
  const std::vector<Admission> first = Submit({Request(1, 100)});
  ASSERT_TRUE(first[0].status.ok()) << first[0].status;
  const std::vector<Admission> second = Submit({Request(2, 8000)});
  EXPECT_EQ(second[0].status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(second[0].status.message()), testing::HasSubstr("pool-bytes"));
  RunAll();
  EXPECT_EQ(outcomes_[first[0].request].finished, FinishReason::kLength);
}

TEST_F(EngineTest, ChainsThatDoNotFitTogetherTakeTurns) {
  const uint64_t small = 2 * ChooseFrameBytes(TinyConfig().cache_shape());
  Make({}, nullptr, small);
  std::vector<GenerateRequest> requests;
  for (int seed = 0; seed < 12; ++seed) requests.push_back(Request(seed, 200));
  for (const Admission& admission : Submit(std::move(requests))) {
    ASSERT_TRUE(admission.status.ok()) << admission.status;
  }
  RunAll();
  ASSERT_EQ(outcomes_.size(), 12u);
  for (const auto& [id, outcome] : outcomes_) {
    EXPECT_EQ(outcome.finished, FinishReason::kLength) << outcome.error;
  }
  EXPECT_EQ(engine_->Snapshot().pool.used_bytes, 0u);
}

TEST_F(EngineTest, AFullPoolCostsTokensButEndsNoChain) {
  // The store never answers, so the chains grow past what was reserved for them.
  SimulatedStore store;
  store.answers = false;
  const uint64_t small = 3 * ChooseFrameBytes(TinyConfig().cache_shape());
  Make({}, &store, small);
  std::vector<GenerateRequest> requests;
  for (int seed = 0; seed < 8; ++seed) requests.push_back(Request(seed, 3000, "thinkv", 64));
  Submit(std::move(requests));
  RunAll();
  uint32_t local = 0;
  for (const auto& [id, outcome] : outcomes_) {
    EXPECT_EQ(outcome.finished, FinishReason::kLength) << outcome.error;
    local += outcome.stats.plans_local + outcome.stats.pressure_reliefs;
  }
  EXPECT_GT(local, 0u);
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

}  // namespace
}  // namespace palimpsest
