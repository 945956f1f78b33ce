// SPDX-License-Identifier: Apache-2.0
// From texts and a codebook to how lanes share a budget.
#include "services/cli/calibrate/lane_shares.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <sstream>
#include <string>

#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/codec.h"
#include "kernels/query_codebook.h"
#include "services/cli/calibrate/lane_losses.h"
#include "services/cli/calibrate/sampler.h"
#include "services/cli/calibrate/summary.h"
#include "services/decode/model/rope.h"
#include "tests/kernels/forwarding_backend.h"

namespace palimpsest::cli {
namespace {

constexpr char kModel[] = "tests/decode/model/data/llama-yarn";

TEST(LostScore, IsWhatTheBestDoNotHave) {
  std::vector<float> scores(kRankedTokens, 2.0f);
  EXPECT_EQ(LostScore(scores), 0.0);
  scores.insert(scores.begin() + 7, {0.5f, 0.25f, 3.0f});
  EXPECT_EQ(LostScore(scores), 0.5 + 0.25 + 2.0);
  std::reverse(scores.begin(), scores.end());
  EXPECT_EQ(LostScore(scores), 0.5 + 0.25 + 2.0);
}

TEST(LaneShares, AreAFloorAndTheRestInProportion) {
  const std::vector<float> shares = LaneShares({0.0, 1.0, 2.0, 5.0});
  ASSERT_EQ(shares.size(), 4u);
  EXPECT_FLOAT_EQ(shares[0], 0.25f);
  EXPECT_FLOAT_EQ(shares[1], 0.25f + 0.75f / 2);
  EXPECT_FLOAT_EQ(shares[2], 1.0f);
  EXPECT_FLOAT_EQ(shares[3], 0.25f + 0.75f * 2.5f);
}

TEST(LaneShares, OfNoLossAreNone) {
  EXPECT_THAT(LaneShares({}), testing::IsEmpty());
  EXPECT_THAT(LaneShares({0.0, 0.0}), testing::IsEmpty());
}

TEST(LaneShares, AreWhatACodebookMayHaveWhateverWasLost) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> power(-30.0, 30.0);
  for (const size_t lanes : {1u, 2u, 16u, 1000u, 8192u}) {
    for (int round = 0; round < 20; ++round) {
      std::vector<double> losses(lanes);
      for (double& loss : losses) loss = std::exp(power(random));
      if (round == 0) std::fill(losses.begin() + 1, losses.end(), 0.0);  // one loses all
      const std::vector<float> shares = LaneShares(losses);
      EXPECT_EQ(CheckLaneShares(shares, lanes), absl::OkStatus()) << lanes << " " << round;
      for (size_t i = 1; i < lanes; ++i) {
        EXPECT_EQ(shares[i - 1] > shares[i] && losses[i - 1] < losses[i], false) << i;
      }
    }
  }
}

TEST(DescribeShares, HasALineALayer) {
  EXPECT_EQ(DescribeShares({0.25f, 1.5f, 1.25f, 1.0f}, 2, 80),
            "layer  mean share  of each KV head\n"
            "    0        0.88  0.25  1.50\n"
            "    1        1.12  1.25  1.00\n"
            "\nshares of lanes: 0.25 to 1.50 of the mean\n");
  EXPECT_THAT(DescribeShares({}, 2, 80), testing::HasSubstr("none"));
}

// Passes everything on, and keeps K and V as the cache has them: of all tokens of one sequence.
class ListeningBackend final : public ForwardingBackend {
 public:
  struct Layer {
    std::vector<float> k, v;  // [tokens, kv_heads, head_dim], rounded to bf16
  };

  ListeningBackend(std::unique_ptr<Backend> backend, const CacheShape& shape)
      : ForwardingBackend(std::move(backend)),
        width_(static_cast<size_t>(shape.kv_heads) * shape.head_dim),
        layers_(shape.layers) {}

  const Layer& layer(int index) const { return layers_[index]; }

  absl::Status BeginStep(absl::Span<const SequenceView> sequences,
                         absl::Span<const StepRows> rows) override {
    rows_ = rows[0].count;
    return ForwardingBackend::BeginStep(sequences, rows);
  }
  absl::Status Append(int layer, const NewTokens& tokens) override {
    Take(tokens.k, &layers_[layer].k);
    Take(tokens.v, &layers_[layer].v);
    return ForwardingBackend::Append(layer, tokens);
  }

 private:
  void Take(const void* from, std::vector<float>* to) const {
    const auto* const rows = static_cast<const float*>(from);
    std::transform(rows, rows + rows_ * width_, std::back_inserter(*to),
                   [](float x) { return Bf16ToFloat(FloatToBf16(x)); });
  }

  const size_t width_;
  size_t rows_ = 0;
  std::vector<Layer> layers_;
};

// A copy of the small model that may read more than it was made for.
std::string LongModel() {
  const std::filesystem::path from = kModel;
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "long-yarn";
  std::filesystem::create_directories(folder);
  std::filesystem::copy_file(from / "model.safetensors", folder / "model.safetensors",
                             std::filesystem::copy_options::overwrite_existing);
  std::ostringstream text;
  text << std::ifstream(from / "config.json").rdbuf();
  std::ofstream(folder / "config.json") << absl::StrReplaceAll(
      text.str(), {{R"("max_position_embeddings": 512)", R"("max_position_embeddings": 2300)"}});
  return folder.string();
}

class LaneLossesTest : public testing::Test {
 protected:
  void SetUp() override {
    source_ = *FindModel(LongModel(), "");
    ASSERT_EQ(source_.config.max_positions, 2300);
    const ModelConfig& config = source_.config;
    book_ = {.layers = config.layers,
             .query_heads = config.query_heads,
             .head_dim = config.head_dim,
             .queries = 16,
             .data = {},
             .inverse_frequencies = InverseFrequencies(config.rope, config.head_dim),
             .attention_factor = static_cast<float>(config.rope.attention_factor)};
    std::mt19937 random(7);
    std::normal_distribution<float> normal(0.0f, 2.0f);
    for (int i = 0; i < config.layers * config.query_size() * 16; ++i) {
      book_.data.push_back(FloatToBf16(normal(random)));
    }
  }

  LookedAtText Text(uint32_t tokens, uint32_t prompt_tokens) const {
    std::mt19937 random(tokens);
    LookedAtText text{.tokens = {}, .prompt_tokens = prompt_tokens};
    for (uint32_t i = 0; i < tokens; ++i) {
      text.tokens.push_back(static_cast<int32_t>(random() % source_.config.vocab_size));
    }
    return text;
  }

  // Listens to the last text.
  absl::StatusOr<std::vector<double>> Measure(
      const std::vector<LookedAtText>& texts, int threads = 2,
      const LossHandler& on_progress = [](const auto&) { return absl::OkStatus(); }) {
    const CacheShape shape = source_.config.cache_shape();
    const std::vector<SampledPrompt> longest = {{.tokens = {1}, .max_new_tokens = 2300}};
    PagePool pool =
        *PagePool::Create({.shape = shape, .pool_bytes = PoolBytesFor(shape, longest, 1)});
    auto device = NewDevice({.choice = {.kind = DeviceKind::kCpu},
                             .source = source_,
                             .pool_bytes = pool.capacity_bytes(),
                             .open_groups = 1});
    EXPECT_TRUE(device.ok()) << device.status();
    auto listening = std::make_unique<ListeningBackend>(std::move(device->backend), shape);
    heard_ = listening.get();
    device->backend = std::move(listening);
    TaskTeam team(threads);
    auto losses = MeasureLaneLosses(*device, &pool, texts, book_, &team, on_progress);
    layers_.clear();
    for (int layer = 0; layer < shape.layers; ++layer) layers_.push_back(heard_->layer(layer));
    return losses;
  }

  // What a lane loses at a look at the first `tokens` of the text heard last, from the definition.
  double Lost(int layer, int kv_head, size_t tokens, uint32_t prompt_tokens) const {
    const ModelConfig& config = source_.config;
    const auto dim = static_cast<size_t>(config.head_dim);
    const int group = config.query_heads / config.kv_heads;
    RotaryTable rotary(config.rope, config.head_dim, 1);
    rotary.Set(0, static_cast<uint32_t>(tokens));
    const auto at = [&](size_t t) { return (t * config.kv_heads + kv_head) * dim; };
    const float* const k = layers_[layer].k.data();
    const float* const v = layers_[layer].v.data();
    std::vector<double> worst(tokens), p(tokens);
    for (int i = 0; i < group * 16; ++i) {
      std::vector<float> q(dim);
      const size_t query = (size_t(layer) * config.query_heads + kv_head * group) * 16 + i;
      std::transform(&book_.data[query * dim], &book_.data[query * dim] + dim, q.begin(),
                     Bf16ToFloat);
      rotary.Rotate(0, 1, q.data());
      for (float& x : q) x = Bf16ToFloat(FloatToBf16(x));
      for (size_t t = 0; t < tokens; ++t) {
        const double dot = std::inner_product(q.begin(), q.end(), k + at(t), 0.0);
        p[t] = std::exp(dot / std::sqrt(double(dim)));
      }
      const double sum = std::accumulate(p.begin(), p.end(), 0.0);
      std::vector<double> out(dim);
      for (size_t t = 0; t < tokens; ++t) {
        p[t] /= sum;
        for (size_t c = 0; c < dim; ++c) out[c] += p[t] * v[at(t) + c];
      }
      for (size_t t = 0; t < tokens; ++t) {
        double square = 0;
        for (size_t c = 0; c < dim; ++c) square += std::pow(v[at(t) + c] - out[c], 2);
        worst[t] = std::max(worst[t], p[t] / (1 - p[t]) * std::sqrt(square));
      }
    }
    double norms = 0;
    for (size_t t = 0; t < tokens; ++t) {
      norms += std::sqrt(std::inner_product(v + at(t), v + at(t) + dim, v + at(t), 0.0));
    }
    std::sort(worst.begin() + prompt_tokens, worst.end(), std::greater<>());
    return std::accumulate(worst.begin() + prompt_tokens + kRankedTokens, worst.end(), 0.0) /
           (norms / double(tokens));
  }

  void ExpectLosses(const std::vector<double>& losses, const std::vector<size_t>& looks,
                    uint32_t prompt_tokens) const {
    const ModelConfig& config = source_.config;
    ASSERT_EQ(losses.size(), size_t(config.layers * config.kv_heads));
    for (int lane = 0; lane < config.layers * config.kv_heads; ++lane) {
      double expected = 0;
      for (const size_t tokens : looks) {
        expected += Lost(lane / config.kv_heads, lane % config.kv_heads, tokens, prompt_tokens);
      }
      EXPECT_GT(expected, 0.0);
      EXPECT_NEAR(losses[lane], expected, expected * 2e-3) << "lane " << lane;
    }
  }

  ModelSource source_;
  QueryCodebook book_;
  const ListeningBackend* heard_ = nullptr;
  std::vector<ListeningBackend::Layer> layers_;
};

TEST_F(LaneLossesTest, OfAShortTextAreThoseAtItsEnd) {
  const auto losses = Measure({Text(397, 21)});
  ASSERT_TRUE(losses.ok()) << losses.status();
  ExpectLosses(*losses, {397}, 21);
}

TEST_F(LaneLossesTest, OfALongTextAreThoseAfterEveryLook) {
  const auto losses = Measure({Text(2100, 5)});
  ASSERT_TRUE(losses.ok()) << losses.status();
  ExpectLosses(*losses, {1024, 2048}, 5);
}

TEST_F(LaneLossesTest, AddUpOverTextsAndAreTheSameOnEveryNumberOfThreads) {
  const auto both = Measure({Text(397, 21), Text(1030, 3)});
  const auto first = Measure({Text(397, 21)}), second = Measure({Text(1030, 3)});
  ASSERT_TRUE(both.ok() && first.ok() && second.ok());
  for (size_t lane = 0; lane < both->size(); ++lane) {
    EXPECT_EQ((*both)[lane], (*first)[lane] + (*second)[lane]);
  }
  for (const int threads : {1, 3, 8}) {
    EXPECT_EQ(*Measure({Text(397, 21), Text(1030, 3)}, threads), *both);
  }
}

TEST_F(LaneLossesTest, AreNoneWhereEveryTokenMayStay) {
  for (const auto& [tokens, prompt] : {std::pair{1, 1}, {180, 7}, {213, 21}, {397, 397}}) {
    const auto losses = Measure({Text(tokens, prompt)});
    ASSERT_TRUE(losses.ok()) << losses.status();
    EXPECT_THAT(*losses, testing::Each(0.0)) << tokens;
  }
  const auto one = Measure({Text(214, 21)});
  ASSERT_TRUE(one.ok());
  ExpectLosses(*one, {214}, 21);
}

TEST_F(LaneLossesTest, EndWithTheHandlersErrorAndTellOfAllWork) {
  double share = 0;
  const auto watch = [&](const LossProgress& progress) {
    EXPECT_GE(progress.share, share);
    share = progress.share;
    return absl::OkStatus();
  };
  ASSERT_TRUE(Measure({Text(397, 21), Text(40, 1)}, 1, watch).ok());
  EXPECT_NEAR(share, 1.0, 1e-9);
  const auto stop = [](const LossProgress& progress) {
    return progress.looks > 0 ? absl::CancelledError("") : absl::OkStatus();
  };
  EXPECT_EQ(Measure({Text(397, 21)}, 1, stop).status().code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace palimpsest::cli
