// SPDX-License-Identifier: Apache-2.0
// The whole engine held against transformers: chunked prefill, the page backend with K and V in
// bf16, greedy sampling. The next 64 tokens must be those that were recorded in fp32.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "nlohmann/json.hpp"
#include "services/decode/engine/engine.h"
#include "services/decode/model/cpu_model.h"

namespace palimpsest {
namespace {

struct Recording {
  std::vector<int32_t> prompt;
  std::vector<int32_t> next;
};

nlohmann::json ReadJson(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  return nlohmann::json::parse(file);
}

void ExpectSameTokens(const std::string& folder, const std::vector<Recording>& recordings) {
  const auto team = std::make_shared<TaskTeam>(2);
  auto model = NewCpuModel(folder, {.rows_max = 64, .logit_rows_max = 8, .team = team});
  ASSERT_TRUE(model.ok()) << model.status();
  const CacheShape shape = (*model)->config().cache_shape();
  auto pool = PagePool::Create({.shape = shape, .pool_bytes = 64 << 20});
  ASSERT_TRUE(pool.ok()) << pool.status();
  const std::unique_ptr<Clock> clock = NewSteadyClock();
  auto backend = NewCpuBackend({.shape = shape,
                                .query_heads = (*model)->config().query_heads,
                                .pool_bytes = pool->capacity_bytes(),
                                .open_groups = 8,
                                .rows_max = 64},
                               team);
  ASSERT_TRUE(backend.ok()) << backend.status();
  const auto timed = NewTimedBackend(*std::move(backend), clock.get());
  Engine engine({.batch_max = 8}, model->get(), timed.get(), *std::move(pool), nullptr, clock.get(),
                nullptr);
  std::vector<GenerateRequest> requests;
  for (const Recording& recording : recordings) {
    requests.push_back({.prompt = recording.prompt,
                        .max_new_tokens = static_cast<uint32_t>(recording.next.size()),
                        .stop_tokens = {},
                        .sampling = {},
                        .policy = *DefaultSpec("full")});
  }
  std::vector<std::vector<int32_t>> tokens(recordings.size());
  for (const Admission& admission : engine.Submit(requests, [&](GenerateEvent event) {
         auto& out = tokens[event.request - 1];
         out.insert(out.end(), event.tokens.begin(), event.tokens.end());
       })) {
    ASSERT_TRUE(admission.status.ok()) << admission.status;
  }
  while (true) {
    const auto worked = engine.Step();
    ASSERT_TRUE(worked.ok()) << worked.status();
    if (!*worked) break;
  }
  for (size_t i = 0; i < recordings.size(); ++i) {
    ASSERT_EQ(recordings[i].next.size(), 64u);
    EXPECT_EQ(tokens[i], recordings[i].next) << folder << ", prompt " << i;
  }
}

TEST(EngineAgreement, TheReasonersNext64TokensAreThoseOfTransformers) {
  const nlohmann::json json = ReadJson("lab/reasoner/reference/logits.json");
  std::vector<Recording> recordings;
  for (const auto& item : json.at("cases")) {
    recordings.push_back({item.at("prompt_ids"), item.at("greedy_ids")});
  }
  ASSERT_FALSE(recordings.empty());
  ExpectSameTokens("lab/reasoner/model", recordings);
}

TEST(EngineAgreement, SmolLm2sNext64TokensAreThoseOfTransformers) {
  const std::string folder = "build/smollm2-135m";
  if (!std::filesystem::exists(folder + "/model.safetensors")) {
    GTEST_SKIP() << "no " << folder << "; lab/agreement/make_smollm2.sh makes it";
  }
  const nlohmann::json json = ReadJson("lab/agreement/reference/smollm2-135m.json");
  ExpectSameTokens(folder, {{json.at("prompt_ids"), json.at("greedy_ids")}});
}

}  // namespace
}  // namespace palimpsest
