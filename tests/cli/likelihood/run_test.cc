// SPDX-License-Identifier: Apache-2.0
// Models that read texts side by side: small random ones, whose attention is real though what they
// say is not, and the reasoner, which knows its text.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <string>

#include "kernels/cpu/cpu_backend.h"
#include "nlohmann/json.hpp"
#include "services/cli/likelihood/forced_model.h"
#include "services/cli/likelihood/runner.h"
#include "services/decode/engine/engine.h"
#include "services/decode/model/cpu_model.h"
#include "tests/decode/engine/random_codebook.h"

namespace palimpsest::cli {
namespace {

constexpr char kTiny[] = "tests/decode/model/data/llama-linear-bias";
constexpr char kReasoner[] = "lab/reasoner/model";

LikelihoodText RandomText(const ModelConfig& config, size_t tokens) {
  LikelihoodText text{.name = "random", .fingerprint = "", .tokens = {}};
  uint32_t state = 12345;
  for (size_t i = 0; i < tokens; ++i) {
    state = state * 1664525u + 1013904223u;
    text.tokens.push_back(
        static_cast<int32_t>((state >> 8) % static_cast<uint32_t>(config.vocab_size)));
  }
  return text;
}

// A chain that the reasoner writes itself, nearly without a doubt.
LikelihoodText ReasonersText() {
  std::ifstream file("lab/reasoner/reference/logits.json");
  const auto json = nlohmann::json::parse(file);
  LikelihoodText text{.name = "chain", .fingerprint = "", .tokens = {}};
  for (const char* const key : {"prompt_ids", "chain_ids"}) {
    for (const auto& id : json["cases"][0][key]) text.tokens.push_back(id.get<int32_t>());
  }
  text.tokens.resize(std::min<size_t>(text.tokens.size(), 256));
  return text;
}

GridPoint Point(const std::string& policy, uint32_t budget, const std::string& formats = "bf16") {
  GridPoint point{.spec = *DefaultSpec(policy), .bounded = policy != "full", .target_percent = {}};
  if (point.bounded) point.spec.budget_tokens = budget;
  point.spec.formats = *ParseClassFormats(formats);
  return point;
}

LikelihoodOptions Options(const std::string& folder) {
  LikelihoodOptions options;
  options.source = *FindModel(folder, "");
  options.device = {.kind = DeviceKind::kCpu};
  options.prompt_tokens = 10;
  return options;
}

// By the points' order.
std::vector<PointResult> ReadWith(const LikelihoodOptions& options, const LikelihoodText& text,
                                  const std::vector<GridPoint>& points) {
  LikelihoodJob job{.text = &text, .points = {}};
  std::map<const GridPoint*, PointResult> found;
  for (const GridPoint& point : points) job.points.push_back(&point);
  uint64_t rows_compared = 0;
  const absl::Status status = CompareCaches(
      options, {job},
      [&](const LikelihoodJob&, const GridPoint& point, PointResult result) {
        EXPECT_TRUE(found.emplace(&point, std::move(result)).second);
        return absl::OkStatus();
      },
      [&](uint64_t rows) {
        rows_compared = rows;
        return absl::OkStatus();
      });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(rows_compared, RowsToCompare(options, {job}));
  std::vector<PointResult> results;
  for (const GridPoint& point : points) results.push_back(found[&point]);
  return results;
}

TEST(LikelihoodRunTest, TheFullCacheDivergesFromItselfByExactlyNothing) {
  const LikelihoodOptions options = Options(kTiny);
  const LikelihoodText text = RandomText(options.source.config, 150);
  const PointResult same = ReadWith(options, text, {Point("full", 0)})[0];
  EXPECT_EQ(same.divergence.positions, 140u);
  EXPECT_EQ(same.divergence.kl_mean, 0.0);
  EXPECT_EQ(same.divergence.kl_p95, 0.0);
  EXPECT_EQ(same.divergence.agreement, 1.0);
  EXPECT_EQ(same.divergence.surprise_mean, same.divergence.full_surprise_mean);
  EXPECT_EQ(same.live_tokens_peak, 149u);
  EXPECT_EQ(same.device, "cpu");
}

TEST(LikelihoodRunTest, WhereOnlySomePositionsAreComparedTheChainsAreTheSame) {
  LikelihoodOptions options = Options(kTiny);
  const LikelihoodText text = RandomText(options.source.config, 150);
  const PointResult all = ReadWith(options, text, {Point("random", 32)})[0];
  options.every = 4;
  const PointResult some = ReadWith(options, text, {Point("random", 32)})[0];
  EXPECT_EQ(some.divergence.positions, 35u);  // 12, 16 ... 148
  EXPECT_EQ(some.bytes_percent_mean, all.bytes_percent_mean);
  EXPECT_EQ(some.live_tokens_mean, all.live_tokens_mean);
  EXPECT_GT(some.divergence.kl_mean, 0.5 * all.divergence.kl_mean);
  EXPECT_LT(some.divergence.kl_mean, 2 * all.divergence.kl_mean);
}

TEST(LikelihoodRunTest, FewerBitsDivergeMore) {
  const LikelihoodOptions options = Options(kReasoner);
  const LikelihoodText text = ReasonersText();
  const std::vector<PointResult> results =
      ReadWith(options, text,
               {Point("full", 0, "fp8"), Point("full", 0, "nvfp4"), Point("full", 0, "ternary")});
  EXPECT_GT(results[0].divergence.kl_mean, 0.0);
  EXPECT_LT(results[0].divergence.kl_mean, 1e-3);
  EXPECT_LT(results[0].divergence.kl_mean, results[1].divergence.kl_mean);
  EXPECT_LT(results[1].divergence.kl_mean, results[2].divergence.kl_mean);
  EXPECT_GT(results[0].bytes_percent_mean, results[1].bytes_percent_mean);
  EXPECT_GT(results[0].divergence.agreement, 0.99);
}

TEST(LikelihoodRunTest, KeepingTheNewestTokensIsBetterThanKeepingAnyAndMoreIsBetterThanFewer) {
  const LikelihoodOptions options = Options(kReasoner);
  const std::vector<PointResult> results =
      ReadWith(options, ReasonersText(),
               {Point("window", 96), Point("random", 96), Point("random", 32), Point("h2o", 96)});
  EXPECT_LT(results[0].divergence.kl_mean, results[1].divergence.kl_mean);
  EXPECT_LT(results[1].divergence.kl_mean, results[2].divergence.kl_mean);
  EXPECT_GT(results[1].divergence.agreement, results[2].divergence.agreement);
  EXPECT_LE(results[2].live_tokens_peak, 10u + 32 + 16 + 16);
  EXPECT_GT(results[3].divergence.positions, 0u);  // with slot scores, so in a run of its own
}

TEST(LikelihoodRunTest, WhatElseIsInTheBatchDoesNotMatter) {
  LikelihoodOptions options = Options(kTiny);
  const LikelihoodText text = RandomText(options.source.config, 200);
  const std::vector<GridPoint> points = {Point("window", 64), Point("random", 32),
                                         Point("random", 48, "nvfp4"), Point("full", 0, "fp8")};
  const std::vector<PointResult> together = ReadWith(options, text, points);
  options.batch = 2;
  const std::vector<PointResult> apart = ReadWith(options, text, points);
  for (size_t i = 0; i < points.size(); ++i) {
    EXPECT_EQ(ToJsonLine(together[i]), ToJsonLine(apart[i]));
  }
}

TEST(LikelihoodRunTest, ManyTextsAtOnceAreReadAsEachAlone) {
  LikelihoodOptions options = Options(kTiny);
  options.prompt_tokens = 40;  // read in three steps
  const std::vector<GridPoint> points = {Point("window", 64), Point("random", 32),
                                         Point("full", 0, "fp8")};
  std::vector<LikelihoodText> texts;
  for (const size_t tokens : {120u, 90u, 150u, 60u, 100u}) {
    texts.push_back(RandomText(options.source.config, tokens));
  }
  std::vector<LikelihoodJob> jobs;
  for (const LikelihoodText& text : texts) {
    jobs.push_back({&text, {&points[0], &points[1], &points[2]}});
  }
  std::map<std::pair<const LikelihoodText*, const GridPoint*>, std::string> together;
  const absl::Status status = CompareCaches(
      options, jobs,
      [&](const LikelihoodJob& job, const GridPoint& point, const PointResult& result) {
        together[{job.text, &point}] = ToJsonLine(result);
        return absl::OkStatus();
      },
      [](uint64_t) { return absl::OkStatus(); });
  ASSERT_TRUE(status.ok()) << status;
  for (const LikelihoodText& text : texts) {
    const std::vector<PointResult> alone = ReadWith(options, text, points);
    for (size_t i = 0; i < points.size(); ++i) {
      const std::string line = together[{&text, &points[i]}];
      EXPECT_EQ(line, ToJsonLine(alone[i]));
    }
  }
}

TEST(LikelihoodRunTest, ABudgetInBytesComesToAboutThoseBytes) {
  const LikelihoodOptions options = Options(kTiny);
  const LikelihoodText text = RandomText(options.source.config, 500);
  for (const char* const policy : {"window", "random", "h2o", "rkv", "longflow"}) {
    GridPoint point = Point(policy, 0);
    point.target_percent = 80;
    const PointResult result = ReadWith(options, text, {point})[0];
    EXPECT_NEAR(result.bytes_percent_mean, 80, 2.5) << policy << " of " << result.budget_tokens;
  }
}

TEST(LikelihoodRunTest, SoItDoesWhereLanesShareItUnevenly) {
  LikelihoodOptions options = Options(kTiny);
  const ModelConfig& config = options.source.config;
  const LikelihoodText text = RandomText(config, 500);
  GridPoint point = Point("anticipate", 0);
  std::vector<PointResult> results;
  for (const float share : {1.0f, 0.25f}) {
    auto codebook = std::make_shared<QueryCodebook>(*RandomCodebook(config, 16));
    for (int lane = 0; lane < config.cache_shape().lanes(); ++lane) {
      codebook->lane_shares.push_back(lane % 2 == 0 ? share : 2 - share);
    }
    options.codebook = codebook;
    point.target_percent = 60;
    const PointResult result = ReadWith(options, text, {point})[0];
    EXPECT_NEAR(result.bytes_percent_mean, 60, 2.5) << "of " << result.budget_tokens;
    point.target_percent.reset();
    point.spec.budget_tokens = 64;
    results.push_back(ReadWith(options, text, {point})[0]);
  }
  EXPECT_NEAR(results[0].bytes_percent_peak, results[1].bytes_percent_peak, 0.05) << "rounds";
  EXPECT_LT(results[1].live_tokens_mean, results[0].live_tokens_mean) << "some evict earlier";
  EXPECT_NE(results[1].divergence.kl_mean, results[0].divergence.kl_mean);
}

TEST(LikelihoodRunTest, AnticipateWithoutACodebookIsRefused) {
  const LikelihoodOptions options = Options(kTiny);
  const LikelihoodText text = RandomText(options.source.config, 100);
  const GridPoint point = Point("anticipate", 64);
  const absl::Status status = CompareCaches(
      options, {{&text, {&point}}}, [](auto&&...) { return absl::OkStatus(); },
      [](uint64_t) { return absl::OkStatus(); });
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
}

TEST(LikelihoodRunTest, AShareThatNoBudgetReachesIsToldWithTheLeast) {
  const LikelihoodOptions options = Options(kTiny);
  const LikelihoodText text = RandomText(options.source.config, 100);
  GridPoint point = Point("random", 0);
  point.target_percent = 1;
  const absl::Status status = ResolvePoint(options, point, text).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("the least is"));
}

TEST(LikelihoodRunTest, AnErrorOfTheCallerEndsTheRun) {
  const LikelihoodOptions options = Options(kTiny);
  const LikelihoodText text = RandomText(options.source.config, 100);
  const GridPoint point = Point("random", 32);
  int steps = 0;
  const absl::Status status = CompareCaches(
      options, {{&text, {&point}}}, [](auto&&...) { return absl::OkStatus(); },
      [&](uint64_t) { return ++steps == 5 ? absl::CancelledError("enough") : absl::OkStatus(); });
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(steps, 5);
}

// An engine over a small model, for what the judge takes for granted of forced chains.
class ForcedChain : public testing::Test {
 protected:
  std::vector<int32_t> Generate(Model* model, GenerateRequest request, RequestStats* stats) {
    const CacheShape shape = model->config().cache_shape();
    PagePool pool = *PagePool::Create({.shape = shape, .pool_bytes = 64 << 20});
    const auto clock = NewSteadyClock();
    const auto backend = NewTimedBackend(*NewCpuBackend({.shape = shape,
                                                         .query_heads = model->config().query_heads,
                                                         .pool_bytes = pool.capacity_bytes(),
                                                         .open_groups = 1},
                                                        1),
                                         clock.get());
    Engine engine({.batch_max = 1}, model, backend.get(), std::move(pool), nullptr, clock.get(),
                  nullptr);
    std::vector<int32_t> tokens;
    engine.Submit({std::move(request)}, [&](const GenerateEvent& event) {
      tokens.insert(tokens.end(), event.tokens.begin(), event.tokens.end());
      if (event.stats.has_value()) *stats = *event.stats;
    });
    while (*engine.Step()) {
    }
    return tokens;
  }
};

TEST_F(ForcedChain, ReadingWhatAChainWroteIsTheSameAsWritingIt) {
  const auto model = NewCpuModel(kTiny, {});
  ASSERT_TRUE(model.ok()) << model.status();
  GenerateRequest request;
  request.prompt = RandomText((*model)->config(), 20).tokens;
  request.max_new_tokens = 200;
  request.policy = *DefaultSpec("random");
  request.policy.budget_tokens = 48;
  RequestStats written;
  const std::vector<int32_t> tokens = Generate(model->get(), request, &written);
  ASSERT_EQ(tokens.size(), 200u);
  std::vector<int32_t> text = request.prompt;
  text.insert(text.end(), tokens.begin(), tokens.end());

  std::vector<int32_t> likeliest;
  ForcedModel forced(model->get(), [&](absl::Span<const ForcedRow> rows) {
    for (const ForcedRow& row : rows) {
      EXPECT_EQ(row.position, request.prompt.size() + likeliest.size());
      EXPECT_EQ(row.target, text[row.position]);
      likeliest.push_back(static_cast<int32_t>(
          std::max_element(row.logits.begin(), row.logits.end()) - row.logits.begin()));
    }
    return absl::OkStatus();
  });
  request.sampling.seed = forced.Add(text);
  RequestStats read;
  EXPECT_EQ(Generate(&forced, request, &read), tokens);
  EXPECT_EQ(likeliest, tokens);
  EXPECT_EQ(read.plan_hash, written.plan_hash);
  EXPECT_EQ(read.footprint_byte_steps, written.footprint_byte_steps);
  EXPECT_EQ(read.live_token_steps, written.live_token_steps);

  ForcedModel silent(model->get(), nullptr);  // reads the same without any logits
  request.sampling.seed = silent.Add(text);
  EXPECT_EQ(Generate(&silent, request, &read), tokens);
  EXPECT_EQ(read.plan_hash, written.plan_hash);
}

TEST_F(ForcedChain, ATextIsReadWhateverTheModelWouldSay) {
  const auto model = NewCpuModel(kTiny, {});
  ASSERT_TRUE(model.ok()) << model.status();
  const LikelihoodText text = RandomText((*model)->config(), 120);
  GenerateRequest request;
  request.prompt.assign(text.tokens.begin(), text.tokens.begin() + 20);
  request.max_new_tokens = 100;
  request.policy = *DefaultSpec("full");
  ForcedModel forced(model->get(), [](absl::Span<const ForcedRow>) { return absl::OkStatus(); });
  request.sampling.seed = forced.Add(text.tokens);
  RequestStats stats;
  EXPECT_THAT(Generate(&forced, request, &stats),
              testing::ElementsAreArray(text.tokens.begin() + 20, text.tokens.end()));
}

}  // namespace
}  // namespace palimpsest::cli
