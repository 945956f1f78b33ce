// SPDX-License-Identifier: Apache-2.0
// The engine on a GPU with a small random model: nine chains, six at a time, under any policy.
#pragma once

#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "services/decode/engine/engine.h"
#include "services/decode/model/cuda/cuda_model.h"
#include "tests/decode/engine/random_codebook.h"
#include "tests/decode/model/small_config.h"
#include "tests/kernels/cuda/gpu_test.h"

namespace palimpsest {

struct ChainOutcome {
  std::vector<int32_t> tokens;
  std::optional<FinishReason> finished;
  RequestStats stats;
};

// The parameter is a policy's name, or "uneven": anticipate with lanes that share its budgets
// unevenly.
class CudaEngine : public GpuTest, public testing::WithParamInterface<std::string> {
 protected:
  static constexpr uint32_t kBatch = 6, kChains = 9;
  static constexpr uint32_t kQueries = 16;  // kept of every chain
  static constexpr uint32_t kBudget = 64;
  static constexpr uint64_t kPoolBytes = 32 << 20;
  static constexpr float kShares[] = {0.25f, 1.75f, 0.5f, 2.0f, 1.0f, 0.5f};  // of SmallConfig

  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
    ModelConfig config = SmallConfig();
    config.max_positions = 1024;
    shape_ = config.cache_shape();
    shape_.slot_scores = shape_.residue = true;
    auto codebook = std::make_shared<QueryCodebook>(*RandomCodebook(config, 64));
    if (Uneven()) codebook->lane_shares.assign(std::begin(kShares), std::end(kShares));
    lane_shares_ = codebook->lane_shares;
    auto backend = NewCudaBackend({.shape = shape_,
                                   .query_heads = config.query_heads,
                                   .pool_bytes = kPoolBytes,
                                   .open_groups = kBatch,
                                   .rows_max = 64,
                                   .rotate_keys = true,  // as a worker does
                                   .query_window = kQueries,
                                   .codebook = std::move(codebook)},
                                  {});
    ASSERT_TRUE(backend.ok()) << backend.status();
    auto model = NewSyntheticCudaModel(
        config, 7, {.rows_max = 64, .logit_rows_max = 16, .observed_layers = {0, 2}},
        backend->get());
    ASSERT_TRUE(model.ok()) << model.status();
    backend_ = NewTimedBackend(*std::move(backend), clock_.get(), /*asynchronous=*/true);
    model_ = *std::move(model);
  }

  static bool Uneven() { return GetParam() == "uneven"; }

  static GenerateRequest Request(uint32_t seed) {
    GenerateRequest request;
    for (uint32_t i = 0; i < 5 + seed * 7; ++i) request.prompt.push_back((seed * 31 + i * 7) % 500);
    request.max_new_tokens = 300 + 13 * seed;
    // About one token in a hundred ends a chain: some while others go on.
    if (seed % 2 == 0) request.stop_tokens = {3, 77, 200, 311, 499};
    request.sampling = {.temperature = 1.0f, .seed = seed};
    request.policy = *DefaultSpec(Uneven() ? "anticipate" : GetParam());
    if (request.policy.budget_tokens > 0) request.policy.budget_tokens = kBudget;
    if (request.policy.name == "thinkv") {
      request.policy.sparsity_layers = {0, 2};
      request.policy.theta = {0.01f, 0.05f};
    }
    return request;
  }

  std::map<RequestId, ChainOutcome> Run(Model* model) {
    std::map<RequestId, ChainOutcome> outcomes;
    auto pool = PagePool::Create({.shape = shape_, .pool_bytes = kPoolBytes});
    Engine engine({.batch_max = kBatch, .lane_shares = lane_shares_}, model, backend_.get(),
                  *std::move(pool), nullptr, clock_.get(), nullptr);
    std::vector<GenerateRequest> requests;
    for (uint32_t seed = 0; seed < kChains; ++seed) requests.push_back(Request(seed));
    for (const Admission& admission :
         engine.Submit(std::move(requests), [&](const GenerateEvent& event) {
           ChainOutcome& outcome = outcomes[event.request];
           outcome.tokens.insert(outcome.tokens.end(), event.tokens.begin(), event.tokens.end());
           outcome.finished = event.finished;
           if (event.stats.has_value()) outcome.stats = *event.stats;
           EXPECT_TRUE(event.error.ok()) << event.error;
         })) {
      EXPECT_TRUE(admission.status.ok()) << admission.status;
    }
    for (bool worked = true; worked;) {
      const absl::StatusOr<bool> stepped = engine.Step();
      EXPECT_TRUE(stepped.ok()) << stepped.status();
      worked = stepped.ok() && *stepped;
    }
    EXPECT_EQ(engine.Snapshot().pool.used_bytes, 0u);
    return outcomes;
  }

  std::unique_ptr<Clock> clock_ = NewSteadyClock();
  CacheShape shape_;
  std::vector<float> lane_shares_;
  std::unique_ptr<TimedBackend> backend_;
  std::unique_ptr<Model> model_;
};

// Of the tests of whoever includes this.
INSTANTIATE_TEST_SUITE_P(Policies, CudaEngine,
                         testing::Values("full", "thinkv", "anticipate", "uneven", "longflow",
                                         "h2o", "rkv", "window", "random"),
                         [](const auto& info) { return info.param; });

}  // namespace palimpsest
