// SPDX-License-Identifier: Apache-2.0
// From runs of a model to a codebook of its queries.
#include <algorithm>
#include <cmath>
#include <random>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/codec.h"
#include "services/cli/calibrate/query_clusters.h"
#include "services/cli/calibrate/query_samples.h"
#include "services/cli/calibrate/sampler.h"
#include "services/cli/calibrate/settings.h"
#include "services/decode/model/safetensors.h"

namespace palimpsest::cli {
namespace {

constexpr char kModel[] = "tests/decode/model/data/llama-yarn";

// `count` points around `centres` centres that lie far apart; the first centre has the most.
std::vector<float> Clouds(uint32_t count, int width, uint32_t centres, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> noise(0.0f, 0.1f);
  std::vector<float> points;
  for (uint32_t p = 0; p < count; ++p) {
    const uint32_t centre = std::min(p % (2 * centres), 2 * centres - 1 - p % (2 * centres));
    const uint32_t chosen = p % 3 == 0 ? 0 : centre;
    for (int c = 0; c < width; ++c) {
      points.push_back(10.0f * static_cast<float>(chosen >> (c % 8) & 1) + noise(random));
    }
  }
  return points;
}

double MeanSquaredDistance(const std::vector<float>& points, int width,
                           const std::vector<uint32_t>& chosen) {
  double total = 0;
  const size_t count = points.size() / width;
  for (size_t p = 0; p < count; ++p) {
    double best = 1e30;
    for (const uint32_t c : chosen) {
      double distance = 0;
      for (int i = 0; i < width; ++i) {
        const double apart = points[p * width + i] - points[size_t{c} * width + i];
        distance += apart * apart;
      }
      best = std::min(best, distance);
    }
    total += best;
  }
  return total / static_cast<double>(count);
}

TEST(ChooseTypical, FindsEveryCloudAndTheLargestFirst) {
  const std::vector<float> points = Clouds(1000, 16, 16, 1);
  const std::vector<uint32_t> chosen = ChooseTypical(points, 16, 16);
  ASSERT_EQ(chosen.size(), 16u);
  EXPECT_LT(MeanSquaredDistance(points, 16, chosen), 16 * 0.1 * 0.1 * 1.5);
  for (int c = 0; c < 16; ++c) {
    EXPECT_NEAR(points[size_t{chosen[0]} * 16 + c], 0.0f, 1.0f) << "the first cloud is largest";
  }
}

TEST(ChooseTypical, IsRepeatableAndChoosesDifferentPoints) {
  for (const uint32_t clusters : {16u, 48u, 256u}) {  // 48: an odd number of blocks
    const std::vector<float> points = Clouds(1003, 32, 64, clusters);
    const std::vector<uint32_t> chosen = ChooseTypical(points, 32, clusters);
    EXPECT_EQ(chosen, ChooseTypical(points, 32, clusters));
    EXPECT_EQ(std::set<uint32_t>(chosen.begin(), chosen.end()).size(), clusters);
    EXPECT_LT(*std::max_element(chosen.begin(), chosen.end()), 1003u);
  }
}

TEST(ChooseTypical, BeatsARandomChoice) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> points(2000 * 32);
  for (size_t i = 0; i < points.size(); ++i) {  // a few broad directions, as queries have
    points[i] = normal(random) * (i % 32 < 4 ? 4.0f : 0.2f);
  }
  std::vector<uint32_t> first(64);
  for (uint32_t i = 0; i < 64; ++i) first[i] = i;
  EXPECT_LT(MeanSquaredDistance(points, 32, ChooseTypical(points, 32, 64)),
            0.85 * MeanSquaredDistance(points, 32, first));
}

TEST(ChooseTypical, TakesPointsThatAreAllEqual) {
  const std::vector<float> points(100 * 16, 3.0f);
  const std::vector<uint32_t> chosen = ChooseTypical(points, 16, 32);
  EXPECT_EQ(std::set<uint32_t>(chosen.begin(), chosen.end()).size(), 32u);
}

TEST(ChooseTypical, TakesAllThereAre) {
  const std::vector<float> points = Clouds(64, 16, 16, 5);
  std::vector<uint32_t> chosen = ChooseTypical(points, 16, 64);
  std::sort(chosen.begin(), chosen.end());
  for (uint32_t i = 0; i < 64; ++i) EXPECT_EQ(chosen[i], i);
}

TEST(QuerySamples, EveryTokenHasTheSameChance) {
  const ModelConfig config = *LoadModelConfig(kModel);
  QuerySamples samples(config, 1000, 1);
  std::vector<uint32_t> who(1000);
  constexpr uint32_t kTokens = 20'000;
  for (uint32_t i = 0; i < kTokens; ++i) {
    const auto slot = samples.Offer();
    if (i < 1000) {
      EXPECT_EQ(slot, i);
    }
    if (slot.has_value()) who[*slot] = i;
  }
  EXPECT_EQ(samples.count(), 1000u);
  EXPECT_EQ(samples.offered(), kTokens);
  std::vector<int> tenths(10);
  for (const uint32_t token : who) ++tenths[token / (kTokens / 10)];
  for (const int count : tenths) EXPECT_NEAR(count, 100, 40);  // four standard deviations
}

TEST(QuerySamples, ASampleThatIsTooSmallForTheCodebookSaysSo) {
  const ModelConfig config = *LoadModelConfig(kModel);
  QuerySamples samples(config, 100, 1);
  for (int i = 0; i < 31; ++i) samples.Offer();
  TaskTeam team(1);
  const absl::Status status =
      ClusterQueries(samples, config, 32, &team, [](size_t) { return absl::OkStatus(); }).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.ToString(), testing::HasSubstr("codebook_queries"));
  EXPECT_THAT(status.ToString(), testing::HasSubstr("31"));
}

// The queries of layer 0 before RoPE, of every token of the vocabulary: [vocab, query_size]. They
// are the token's alone, wherever it stands.
std::vector<float> FirstLayerQueries(const ModelConfig& config) {
  const auto store = WeightStore::Open(kModel);
  const int64_t vocab = config.vocab_size, hidden = config.hidden_size;
  const auto embedding = *(*store)->ReadFloats("model.embed_tokens.weight", {vocab, hidden});
  const auto norm = *(*store)->ReadFloats("model.layers.0.input_layernorm.weight", {hidden});
  const auto weight = *(*store)->ReadFloats("model.layers.0.self_attn.q_proj.weight",
                                            {config.query_size(), hidden});
  std::vector<float> queries;
  for (int64_t t = 0; t < vocab; ++t) {
    const float* x = &embedding[t * hidden];
    double square = 0;
    for (int64_t i = 0; i < hidden; ++i) square += double{x[i]} * x[i];
    const double scale = 1 / std::sqrt(square / static_cast<double>(hidden) + config.rms_eps);
    for (int row = 0; row < config.query_size(); ++row) {
      double sum = 0;
      for (int64_t i = 0; i < hidden; ++i) sum += scale * x[i] * norm[i] * weight[row * hidden + i];
      queries.push_back(static_cast<float>(sum));
    }
  }
  return queries;
}

struct SampledRun {
  ModelConfig config;
  QuerySamples samples;
  SampledRuns runs = {};
};

SampledRun RunModel(uint32_t batch) {
  const ModelSource source = *FindModel(kModel, "");
  const CacheShape shape = source.config.cache_shape();
  std::vector<SampledPrompt> prompts;
  for (int i = 0; i < 3; ++i) {
    prompts.push_back({.tokens = std::vector<int32_t>(5 + 20 * i, 7 + i), .max_new_tokens = 90});
  }
  prompts[1].continuation = std::vector<int32_t>(100, 33);
  PagePool pool =
      *PagePool::Create({.shape = shape, .pool_bytes = PoolBytesFor(shape, prompts, batch)});
  const auto device = NewDevice({.choice = {.kind = DeviceKind::kCpu},
                                 .source = source,
                                 .pool_bytes = pool.capacity_bytes(),
                                 .open_groups = batch,
                                 .logit_rows_max = static_cast<int>(batch)});
  EXPECT_TRUE(device.ok()) << device.status();
  SampledRun run{source.config, QuerySamples(source.config, 64, static_cast<int>(batch))};
  auto runs = SampleRuns(*device, &pool, prompts, {.first_step = 16, .batch = batch}, &run.samples,
                         [](const auto&) { return absl::OkStatus(); });
  EXPECT_TRUE(runs.ok()) << runs.status();
  run.runs = *std::move(runs);
  return run;
}

TEST(QuerySamples, HoldTheQueriesOfGeneratedTokensAsTheyWereBeforeRope) {
  const SampledRun run = RunModel(2);
  const ModelConfig& config = run.config;
  ASSERT_NE(config.rope.attention_factor, 1.0) << "the factor must be taken back too";
  ASSERT_GT(run.samples.offered(), run.samples.count());
  ASSERT_EQ(run.samples.count(), 64u);
  const std::vector<float> expected = FirstLayerQueries(config);
  for (int head = 0; head < config.query_heads; ++head) {
    const auto queries = run.samples.of(0, head);
    for (uint32_t s = 0; s < run.samples.count(); ++s) {
      float best = 1e30f;
      float largest = 0.0f;
      for (int t = 0; t < config.vocab_size; ++t) {
        float worst = 0.0f;
        for (int c = 0; c < config.head_dim; ++c) {
          const float query = Bf16ToFloat(queries[s * config.head_dim + c]);
          const float at = expected[t * config.query_size() + head * config.head_dim + c];
          worst = std::max(worst, std::abs(query - at));
          largest = std::max(largest, std::abs(query));
        }
        best = std::min(best, worst);
      }
      EXPECT_LT(best, largest / 200) << "head " << head << ", sample " << s;
    }
  }
}

TEST(SampleRuns, TellsWhatFollowedEachPrompt) {
  const SampledRun run = RunModel(2);
  const std::vector<std::vector<int32_t>>& written = run.runs.written;
  ASSERT_EQ(written.size(), 3u);
  EXPECT_EQ(written[1], std::vector<int32_t>(90, 33)) << "as it was told to read";
  uint64_t tokens = 0;
  for (const std::vector<int32_t>& of_prompt : written) {
    tokens += of_prompt.size();
    EXPECT_TRUE(of_prompt.size() == 90 || of_prompt.back() == run.config.eos_ids[0]);
  }
  EXPECT_EQ(written, RunModel(3).runs.written);
  EXPECT_GE(run.samples.offered() + 3, tokens);
}

TEST(ClusterQueries, GivesRealQueriesAndTheSameOnEveryNumberOfThreads) {
  const SampledRun run = RunModel(3);
  const ModelConfig& config = run.config;
  const auto quiet = [](size_t) { return absl::OkStatus(); };
  TaskTeam one(1), three(3);
  const auto book = ClusterQueries(run.samples, config, 16, &one, quiet);
  ASSERT_TRUE(book.ok()) << book.status();
  EXPECT_EQ(ClusterQueries(run.samples, config, 16, &three, quiet)->data, book->data);
  const auto width = static_cast<size_t>(config.head_dim);
  ASSERT_EQ(book->data.size(), 16 * width * config.layers * config.query_heads);
  for (int head = 0; head < config.layers * config.query_heads; ++head) {
    const auto sample = run.samples.of(head / config.query_heads, head % config.query_heads);
    for (size_t query = 0; query < 16; ++query) {
      const auto wanted =
          absl::MakeConstSpan(book->data).subspan((head * 16 + query) * width, width);
      bool is_real = false;
      for (size_t s = 0; s < sample.size(); s += width)
        is_real |= sample.subspan(s, width) == wanted;
      EXPECT_TRUE(is_real) << head << " " << query;
    }
  }
}

TEST(ClusterQueries, EndsWithTheHandlersError) {
  const SampledRun run = RunModel(3);
  TaskTeam team(1);
  EXPECT_EQ(ClusterQueries(run.samples, run.config, 16, &team,
                           [](size_t heads_done) {
                             return heads_done > 0 ? absl::CancelledError("") : absl::OkStatus();
                           })
                .status()
                .code(),
            absl::StatusCode::kCancelled);
}

TEST(CalibrateSettings, ProblemsAreNoneOfThoseHeldOutForJudging) {
  const auto set = ChooseCalibrationProblems("64");
  ASSERT_TRUE(set.ok()) << set.status();
  std::set<std::string> prompts;
  uint32_t longest = 0;
  for (const CountdownProblem& problem : set->problems) {
    prompts.insert(problem.prompt);
    longest = std::max(longest, problem.chain_tokens);
  }
  EXPECT_GT(longest, 8000u);
  for (const char* file : {"heldout", "short"}) {
    const auto judged = ReadProblems(std::string("lab/reasoner/problems/") + file + ".jsonl");
    ASSERT_TRUE(judged.ok()) << judged.status();
    for (const CountdownProblem& problem : *judged) EXPECT_EQ(prompts.count(problem.prompt), 0u);
  }
  EXPECT_EQ(ChooseCalibrationProblems("65").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ChooseCalibrationProblems("0").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(CalibrateSettings, TheCodebookLiesBesideTheCalibration) {
  CalibrateSettings settings;
  EXPECT_EQ(CodebookPath(settings), "queries.safetensors");
  settings.out = "a/b/calibration.json";
  EXPECT_EQ(CodebookPath(settings), "a/b/queries.safetensors");
  settings.shares_of = "c/d.safetensors";
  settings.out = "a/e.safetensors";
  EXPECT_EQ(CodebookPath(settings), "a/e.safetensors") << "nothing else is written";
  settings.codebook = "x";
  EXPECT_EQ(CodebookPath(settings), "x");
}

}  // namespace
}  // namespace palimpsest::cli
