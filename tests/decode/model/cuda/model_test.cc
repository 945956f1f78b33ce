// SPDX-License-Identifier: Apache-2.0
// The CUDA model held against the CPU model on the same random weights, and what it promises beside
// its logits. (agreement_test.cc holds it against transformers.)
#include <cuda_bf16.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "kernels/cpu/cpu_backend.h"
#include "services/decode/model/cpu_model.h"
#include "services/decode/model/cuda/cuda_model.h"
#include "tests/decode/model/cuda/paged_chains.h"
#include "tests/decode/model/exact_backend.h"
#include "tests/decode/model/small_config.h"
#include "tests/kernels/cuda/gpu_test.h"

namespace palimpsest {
namespace {

using testing::HasSubstr;

constexpr uint32_t kSequences = 6;
constexpr uint32_t kTokensMax = 128;
constexpr int kRowsMax = 96;
// Weights and activations are rounded to bf16 here and not there. Of the worst row, in units of the
// logits' standard deviation; seen: 0.082 and 0.018.
constexpr double kWorstError = 0.15;
constexpr double kMeanError = 0.03;
// Of the attention a token received; seen: 0.012.
constexpr double kWorstScoreError = 0.03;

struct Variant {
  std::string name;
  ModelConfig config;
  bool rotate_keys = false;
};

std::vector<Variant> Variants() {
  std::vector<Variant> out;
  out.push_back({"Llama", SmallConfig()});
  out.push_back({"RotatedKeys", SmallConfig(), true});
  ModelConfig biased = SmallConfig();
  biased.qkv_bias = biased.output_bias = biased.mlp_bias = true;
  biased.tied_embeddings = true;
  out.push_back({"TiedWithBiases", biased});
  ModelConfig qwen3 = SmallConfig();
  qwen3.family = ModelFamily::kQwen3;
  qwen3.qk_norm = true;
  qwen3.head_dim = 128;
  qwen3.query_heads = 8;
  qwen3.rope.theta = 1e6;
  out.push_back({"QkNormAndHeadDim128", qwen3});
  out.push_back({"QkNormAndRotatedKeys", qwen3, true});
  ModelConfig wide = SmallConfig();
  wide.query_heads = 10;  // wider than the hidden size, five queries a KV head
  wide.rope.scaling = RopeScaling::kYarn;
  wide.rope.factor = 4.0;
  wide.rope.original_max_positions = 128;
  wide.rope.attention_factor = 1.139;
  out.push_back({"WideAttentionAndYarn", wide});
  return out;
}

CudaModelOptions SmallOptions() { return {.rows_max = kRowsMax, .logit_rows_max = kRowsMax}; }

struct OnGpu {
  explicit OnGpu(const ModelConfig& config, const CudaModelOptions& options = SmallOptions(),
                 uint32_t sequences = kSequences, SlotScore carried = SlotScore::kNone,
                 bool rotate_keys = false) {
    BackendConfig cache = ConfigForChains(config, sequences, kTokensMax, options.rows_max, carried);
    cache.rotate_keys = rotate_keys;
    backend = BackendForChains(cache);
    auto made = NewSyntheticCudaModel(config, 7, options, backend.get());
    EXPECT_TRUE(made.ok()) << made.status();
    model = *std::move(made);
  }
  std::unique_ptr<CudaBackend> backend;
  std::unique_ptr<CudaModel> model;
};

std::vector<int32_t> SomeText(int tokens, int seed) {
  std::vector<int32_t> text;
  for (int i = 0; i < tokens; ++i) text.push_back((i * 29 + seed * 101 + 7) % 499 + 3);
  return text;
}

// A ragged step: some sequences with some tokens, as room allows.
std::vector<Feed> SomeFeeds(const Chains& chains, int round) {
  std::vector<Feed> feeds;
  for (uint32_t s = 0; s < kSequences; ++s) {
    const uint32_t want = (round * 7 + s * 5) % 17;
    const uint32_t count = std::min(want, chains.RoomInGroup(s));
    if (count > 0) feeds.push_back({s, SomeText(count, round * 5 + s)});
  }
  return feeds;
}

struct Errors {
  double worst = 0;
  double mean = 0;
};
Errors ErrorsOf(const std::vector<float>& found, const std::vector<float>& expected) {
  double mean = 0, square = 0, sum = 0;
  Errors out;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double error = std::abs(found[i] - expected[i]);
    out.worst = std::max(out.worst, std::isnan(error) ? HUGE_VAL : error);
    sum += error;
    mean += expected[i];
    square += double{expected[i]} * expected[i];
  }
  const double n = static_cast<double>(expected.size());
  const double deviation = std::sqrt(square / n - mean / n * (mean / n));
  return {out.worst / deviation, sum / n / deviation};
}

class CudaModelTest : public GpuTest {};
class OfEachFamily : public GpuTest, public testing::WithParamInterface<Variant> {};

TEST_P(OfEachFamily, LogitsOfRaggedStepsAreThoseOfTheCpuModel) {
  const ModelConfig& config = GetParam().config;
  OnGpu gpu(config, SmallOptions(), kSequences, SlotScore::kNone, GetParam().rotate_keys);
  auto cpu = NewSyntheticCpuModel(config, 7, {.rows_max = kRowsMax, .logit_rows_max = kRowsMax});
  ASSERT_TRUE(cpu.ok()) << cpu.status();
  ExactBackend exact(config);
  Chains expected(cpu->get(), &exact, kSequences);
  PagedChains found(gpu.model.get(), gpu.backend.get(), kSequences);
  Errors worst;
  for (int round = 0; round < 14; ++round) {
    const std::vector<Feed> feeds = SomeFeeds(found, round);
    const auto ours = found.Step(feeds);
    const auto theirs = expected.Step(feeds);
    ASSERT_TRUE(ours.ok()) << ours.status();
    ASSERT_TRUE(theirs.ok()) << theirs.status();
    for (size_t row = 0; row < ours->size(); ++row) {
      const Errors errors = ErrorsOf((*ours)[row], (*theirs)[row]);
      worst.worst = std::max(worst.worst, errors.worst);
      worst.mean = std::max(worst.mean, errors.mean);
    }
  }
  std::cout << GetParam().name << ": worst error " << worst.worst << ", mean of the worst row "
            << worst.mean << " standard deviations\n";
  EXPECT_LE(worst.worst, kWorstError);
  EXPECT_LE(worst.mean, kMeanError);
}

INSTANTIATE_TEST_SUITE_P(CudaModel, OfEachFamily, testing::ValuesIn(Variants()),
                         [](const auto& info) { return info.param.name; });

TEST_F(CudaModelTest, GeneratesWhatTheSamplerMakesOfItsLogits) {
  OnGpu gpu(SmallConfig()), other(SmallConfig());
  PagedChains logits_of(gpu.model.get(), gpu.backend.get(), kSequences);
  PagedChains tokens_of(other.model.get(), other.backend.get(), kSequences);
  for (int round = 0; round < 14; ++round) {
    const std::vector<Feed> feeds = SomeFeeds(logits_of, round);
    std::vector<SampleSpec> samples(feeds.size());
    for (size_t i = 0; i < samples.size(); i += 2) {
      samples[i] = {.params = {.temperature = 0.7f, .top_k = 50, .top_p = 0.9f, .seed = i},
                    .position = static_cast<uint32_t>(round)};
    }
    const auto logits = logits_of.Step(feeds);
    const auto tokens = tokens_of.Generate(feeds, samples);
    ASSERT_TRUE(logits.ok()) << logits.status();
    ASSERT_TRUE(tokens.ok()) << tokens.status();
    size_t row = 0;
    for (size_t i = 0; i < feeds.size(); ++i) {
      row += feeds[i].tokens.size();
      EXPECT_EQ((*tokens)[i],
                *SampleToken((*logits)[row - 1], samples[i].params, samples[i].position))
          << "round " << round << ", feed " << i;
    }
  }
}

TEST_F(CudaModelTest, TheSameStepsGiveTheSameBits) {
  OnGpu gpu(SmallConfig());
  std::vector<std::vector<std::vector<float>>> runs;
  for (int run = 0; run < 2; ++run) {
    PagedChains chains(gpu.model.get(), gpu.backend.get(), kSequences);
    for (int round = 0; round < 6; ++round) {
      const auto logits = chains.Step(SomeFeeds(chains, round));
      ASSERT_TRUE(logits.ok()) << logits.status();
      if (round == 5) runs.push_back(*logits);
    }
  }
  EXPECT_EQ(runs[0], runs[1]);
}

TEST_F(CudaModelTest, LogitRowsBeyondOneRoundOfTheHeadAreThoseOfSmallSteps) {
  constexpr uint32_t kMany = 40, kTokens = 15;
  constexpr int kRows = kMany * kTokens;
  OnGpu gpu(SmallConfig(), {.rows_max = kRows, .logit_rows_max = kRows}, kMany);
  ASSERT_LT(gpu.model->head_rows_max(), kRows);
  PagedChains together(gpu.model.get(), gpu.backend.get(), kMany);
  std::vector<Feed> feeds;
  for (uint32_t s = 0; s < kMany; ++s) feeds.push_back({s, SomeText(kTokens, s)});
  const auto all = together.Step(feeds);
  ASSERT_TRUE(all.ok()) << all.status();
  ASSERT_EQ(all->size(), size_t{kRows});
  PagedChains alone(gpu.model.get(), gpu.backend.get(), kMany);
  size_t row = 0;
  for (const Feed& feed : feeds) {
    const auto some = alone.Step({feed});
    ASSERT_TRUE(some.ok()) << some.status();
    // Other numbers of rows, other algorithms: the same up to the rounding of activations.
    for (const auto& logits : *some) EXPECT_LE(ErrorsOf((*all)[row++], logits).worst, kWorstError);
  }
}

// Feeds every chain groups, then `singles` tokens one by one.
void Decode(Chains& chains, uint32_t sequences, int groups, int singles) {
  for (int step = 0; step < groups + singles; ++step) {
    std::vector<Feed> feeds;
    for (uint32_t s = 0; s < sequences; ++s) {
      feeds.push_back({s, SomeText(step < groups ? kGroupTokens : 1, static_cast<int>(step + s))});
    }
    ASSERT_TRUE(chains.Step(feeds).ok());
  }
}

TEST_F(CudaModelTest, AttentionReceivedByEveryTokenIsThatOfTheCpuModel) {
  constexpr uint32_t kChains = 3;
  constexpr int kSingles = 3 * kGroupTokens;
  constexpr SlotScore kCarried = SlotScore::kAttentionReceived;
  const ModelConfig config = SmallConfig();
  OnGpu gpu(config, SmallOptions(), kChains, kCarried);
  auto model = NewSyntheticCpuModel(config, 7, {.rows_max = kRowsMax, .logit_rows_max = kRowsMax});
  auto cpu = NewCpuBackend(ConfigForChains(config, kChains, kTokensMax, kRowsMax, kCarried), 2);
  ASSERT_TRUE(model.ok() && cpu.ok()) << model.status() << cpu.status();
  PagedChains found(gpu.model.get(), gpu.backend.get(), kChains, kCarried);
  PagedChains expected(model->get(), cpu->get(), kChains, kCarried);
  ASSERT_NO_FATAL_FAILURE(Decode(found, kChains, 1, kSingles));
  ASSERT_NO_FATAL_FAILURE(Decode(expected, kChains, 1, kSingles));
  const double received = kSingles * config.query_heads / config.kv_heads;  // by all tokens
  double worst = 0;
  for (uint32_t s = 0; s < kChains; ++s) {
    for (int lane = 0; lane < config.cache_shape().lanes(); ++lane) {
      const int layer = lane / config.kv_heads, head = lane % config.kv_heads;
      const auto ours = found.Scores(s, layer, head), theirs = expected.Scores(s, layer, head);
      ASSERT_EQ(ours.size(), size_t{kGroupTokens + kSingles});
      double sum = 0;
      for (const auto& [position, score] : ours) {
        sum += score;
        worst =
            std::max(worst, std::abs(score - theirs.at(position)) / (theirs.at(position) + 0.1));
      }
      EXPECT_NEAR(sum, received, 1e-3 * received) << "chain " << s << ", lane " << lane;
    }
  }
  std::cout << "attention received: worst error " << worst << " of it\n";
  EXPECT_LE(worst, kWorstScoreError);
}

TEST_F(CudaModelTest, EveryLayerEvictsATokenAStep) {
  constexpr uint32_t kChains = 3;
  constexpr int kGroups = 2, kSingles = 9;
  const ModelConfig config = SmallConfig();
  OnGpu gpu(config, SmallOptions(), kChains, SlotScore::kValueNorm);
  PagedChains chains(gpu.model.get(), gpu.backend.get(), kChains, SlotScore::kValueNorm);
  ASSERT_NO_FATAL_FAILURE(Decode(chains, kChains, kGroups, 0));
  chains.EvictFrom(kGroupTokens);
  ASSERT_NO_FATAL_FAILURE(Decode(chains, kChains, 0, kSingles));
  for (uint32_t s = 0; s < kChains; ++s) {
    for (int layer = 0; layer < config.layers; ++layer) {
      const auto first = chains.Scores(s, layer, 0), second = chains.Scores(s, layer, 1);
      ASSERT_EQ(first.size(), size_t{kGroups * kGroupTokens - kSingles}) << "layer " << layer;
      EXPECT_TRUE(first.contains(kGroupTokens - 1)) << "what may not be evicted";
      EXPECT_TRUE(std::equal(first.begin(), first.end(), second.begin(), second.end(),
                             [](const auto& a, const auto& b) { return a.first == b.first; }));
    }
  }
}

// Copies the queries it is shown.
class QueryRecorder final : public LayerObserver {
 public:
  QueryRecorder(std::vector<int> layers, size_t size, bool on_device)
      : layers_(std::move(layers)), size_(size), on_device_(on_device) {}

  absl::Span<const int> layers() const override { return layers_; }
  absl::Status AfterAttend(int layer, const LayerActivations& io) override {
    std::vector<float>& q = queries_[layer];
    if (!on_device_) {
      q.assign(static_cast<const float*>(io.q), static_cast<const float*>(io.q) + size_);
      return absl::OkStatus();
    }
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);  // the copy below is not in the stream
    for (const auto x : DeviceArray<__nv_bfloat16>::ReadDevice(io.q, size_)) {
      q.push_back(__bfloat162float(x));
    }
    return absl::OkStatus();
  }
  const std::map<int, std::vector<float>>& queries() const { return queries_; }

 private:
  const std::vector<int> layers_;
  const size_t size_;
  const bool on_device_;
  std::map<int, std::vector<float>> queries_;
};

TEST_F(CudaModelTest, ObserversSeeTheQueriesOfTheLayersTheyNameAfterTheGraph) {
  const ModelConfig config = SmallConfig();
  CudaModelOptions options = SmallOptions();
  options.observed_layers = {0, 2};
  OnGpu gpu(config, options);
  EXPECT_TRUE(gpu.model->may_observe(0));
  EXPECT_FALSE(gpu.model->may_observe(1));
  EXPECT_FALSE(gpu.model->may_observe(-1));
  EXPECT_FALSE(gpu.model->may_observe(3));
  auto cpu = NewSyntheticCpuModel(config, 7, {.rows_max = kRowsMax, .logit_rows_max = kRowsMax});
  ASSERT_TRUE(cpu.ok()) << cpu.status();
  ExactBackend exact(config);
  Chains expected(cpu->get(), &exact, kSequences);
  PagedChains found(gpu.model.get(), gpu.backend.get(), kSequences);
  const std::vector<Feed> feeds = {{1, SomeText(9, 1)}, {4, SomeText(16, 2)}};
  QueryRecorder ours({0, 2}, 25 * config.query_size(), true);
  QueryRecorder theirs({0, 2}, 25 * config.query_size(), false);
  ASSERT_TRUE(found.Step(feeds, &ours).ok());
  ASSERT_TRUE(expected.Step(feeds, &theirs).ok());
  ASSERT_EQ(ours.queries().size(), 2u);
  for (const auto& [layer, queries] : ours.queries()) {
    EXPECT_LE(ErrorsOf(queries, theirs.queries().at(layer)).worst, kWorstError) << layer;
  }
  QueryRecorder unkept({1}, 1, true);
  EXPECT_EQ(found.Step({{0, {5}}}, &unkept).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(CudaModelTest, EveryPartCanBeEnqueuedAlone) {
  OnGpu gpu(SmallConfig());
  PagedChains chains(gpu.model.get(), gpu.backend.get(), kSequences);
  ASSERT_TRUE(chains.Step({{0, SomeText(5, 0)}}).ok());  // a step that has begun
  for (int part = 0; part < kStepParts; ++part) {
    EXPECT_EQ(gpu.model->Enqueue(static_cast<StepPart>(part), 1, 5), absl::OkStatus())
        << Name(static_cast<StepPart>(part));
  }
  EXPECT_EQ(gpu.backend->Synchronize(), absl::OkStatus());
  EXPECT_EQ(gpu.model->PaddedRows(5), 8);
  EXPECT_FALSE(gpu.model->Enqueue(StepPart::kQkv, 1, kRowsMax + 1).ok());
}

TEST_F(CudaModelTest, WhatDoesNotFitIsRefusedWithTheSizes) {
  ModelConfig huge = SmallConfig();
  huge.hidden_size = 16384;
  huge.intermediate_size = 53248;
  huge.layers = 126;
  huge.vocab_size = 128256;
  auto backend = BackendForChains(ConfigForChains(SmallConfig(), 1, 16, 16));
  const CudaModelOptions options = {.rows_max = 16, .logit_rows_max = 16};
  const auto model = NewSyntheticCudaModel(huge, 1, options, backend.get());
  EXPECT_EQ(model.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(model.status().message()), HasSubstr("MB for weights"));
  EXPECT_THAT(std::string(model.status().message()), HasSubstr("rows_max 16"));
}

TEST_F(CudaModelTest, SettingsThatMakeNoSenseAreRefusedByName) {
  auto backend = BackendForChains(ConfigForChains(SmallConfig(), 1, 16, 16));
  const auto refusal = [&](const ModelConfig& config, const CudaModelOptions& options) {
    return std::string(NewSyntheticCudaModel(config, 1, options, backend.get()).status().message());
  };
  EXPECT_THAT(refusal(SmallConfig(), {.rows_max = 0}), HasSubstr("rows_max 0"));
  EXPECT_THAT(refusal(SmallConfig(), {.rows_max = 4, .logit_rows_max = 5}),
              HasSubstr("logit_rows_max 5"));
  EXPECT_THAT(
      refusal(SmallConfig(), {.rows_max = 8, .logit_rows_max = 8, .observed_layers = {2, 1}}),
      HasSubstr("observed_layers [2, 1]"));
  ModelConfig odd = SmallConfig();
  odd.hidden_size = 100;
  EXPECT_THAT(refusal(odd, {.rows_max = 8, .logit_rows_max = 8}), HasSubstr("hidden_size 100"));
}

}  // namespace
}  // namespace palimpsest
