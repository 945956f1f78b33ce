// SPDX-License-Identifier: Apache-2.0
// An engine with a small random model on the CPU: what it says means nothing, but it says it for
// good reasons.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "services/decode/engine/engine.h"
#include "services/decode/model/cpu_model.h"
#include "tests/decode/engine/tiny_config.h"

namespace palimpsest {

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

// Thresholds that make every label come up on random attention.
inline void UseLabels(GenerateRequest& request) {
  request.policy.sparsity_layers = {0, 1};
  request.policy.theta = {0.01f, 0.05f};
}

}  // namespace palimpsest
