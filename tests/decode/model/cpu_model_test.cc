// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/cpu_model.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/decode/model/chain.h"
#include "tests/decode/model/exact_backend.h"
#include "tests/decode/model/reference.h"

namespace palimpsest {
namespace {

using testing::HasSubstr;

constexpr char kData[] = "tests/decode/model/data/";
const CpuModelOptions kOptions = {.threads = 1, .rows_max = 64, .logit_rows_max = 64};

// Logits are of size 1 to 20; what differs from transformers is only the order of float sums.
constexpr double kLogitTolerance = 2e-4;

std::unique_ptr<Model> Load(const std::string& name) {
  auto model = NewCpuModel(kData + name, kOptions);
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

class AgreesWithTransformers : public testing::TestWithParam<const char*> {};

TEST_P(AgreesWithTransformers, InLogitsAndInTheNext64GreedyTokens) {
  const std::unique_ptr<Model> model = Load(GetParam());
  ExactBackend backend(model->config());
  Chains chains(model.get(), &backend, 2);
  const Reference reference = ReadReference(std::string(kData) + GetParam() + "/reference.json");
  ASSERT_EQ(reference.greedy_ids.size(), 64u);
  RecordProperty("worst_logit_error",
                 std::to_string(ExpectAgrees(reference, kLogitTolerance, &chains)));
}

INSTANTIATE_TEST_SUITE_P(TinyModels, AgreesWithTransformers,
                         testing::Values("llama-llama3-untied", "llama-linear-bias", "llama-yarn",
                                         "qwen2", "qwen3"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

std::vector<int32_t> SomeText(int tokens, int seed) {
  std::vector<int32_t> text;
  for (int i = 0; i < tokens; ++i) text.push_back((i * 29 + seed * 101 + 7) % 250 + 3);
  return text;
}

double WorstDifference(const std::vector<float>& a, const std::vector<float>& b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) worst = std::max<double>(worst, std::abs(a[i] - b[i]));
  return worst;
}

TEST(CpuModel, SplittingAPromptIntoStepsDoesNotChangeItsLogits) {
  const std::unique_ptr<Model> model = Load("qwen3");
  const std::vector<int32_t> text = SomeText(50, 1);
  ExactBackend backend(model->config());
  Chains chains(model.get(), &backend, 3);
  const auto whole = chains.FeedAll(0, text, 16);
  for (const uint32_t step : {1u, 5u}) {
    const auto split = chains.FeedAll(step == 1 ? 1 : 2, text, step);
    for (size_t row = 0; row < text.size(); ++row) {
      EXPECT_LE(WorstDifference(whole[row], split[row]), 1e-4) << "row " << row;
    }
  }
}

TEST(CpuModel, ARaggedBatchGivesEachSequenceTheLogitsItHasAlone) {
  const std::unique_ptr<Model> model = Load("llama-llama3-untied");
  ExactBackend backend(model->config());
  Chains together(model.get(), &backend, 5);
  ExactBackend backend_alone(model->config());
  Chains alone(model.get(), &backend_alone, 5);
  for (int round = 0; round < 12; ++round) {
    std::vector<Feed> feeds;
    for (uint32_t s = 0; s < 5; ++s) {
      const uint32_t want = (round * 7 + s * 5) % 16;
      const uint32_t count = std::min(want, together.RoomInGroup(4 - s));
      if (count > 0) feeds.push_back({4 - s, SomeText(count, round * 5 + s)});
    }
    const auto batch = together.Step(feeds);
    ASSERT_TRUE(batch.ok()) << batch.status();
    size_t row = 0;
    for (const Feed& feed : feeds) {
      const auto expected = alone.Step({feed});
      ASSERT_TRUE(expected.ok()) << expected.status();
      for (const auto& logits : *expected) {
        EXPECT_LE(WorstDifference(logits, (*batch)[row++]), 1e-4);
      }
    }
  }
}

TEST(CpuModel, ASyntheticModelIsTheSameForTheSameSeed) {
  ModelConfig config = Load("qwen2")->config();
  std::vector<std::vector<float>> last;
  for (const uint64_t seed : {1, 1, 2}) {
    auto model = NewSyntheticCpuModel(config, seed, kOptions);
    ASSERT_TRUE(model.ok()) << model.status();
    ExactBackend backend(config);
    Chains chains(model->get(), &backend, 1);
    last.push_back(chains.FeedAll(0, SomeText(20, 0), 16).back());
  }
  EXPECT_EQ(last[0], last[1]);
  EXPECT_NE(last[0], last[2]);
  for (const float logit : last[0]) EXPECT_TRUE(std::isfinite(logit));
}

class BatchCheck : public testing::Test {
 protected:
  BatchCheck() : model_(Load("qwen2")), backend_(model_->config()) {
    views_[0].open_group = 0;
    views_[1].open_group = 1;
  }

  absl::Status Run() {
    std::vector<float> logits(wanted_.size() * model_->config().vocab_size);
    return model_->Forward({tokens_, views_, rows_, wanted_, observer_}, backend_,
                           absl::MakeSpan(logits));
  }
  void ExpectRefused(const std::string& part) {
    const absl::Status status = Run();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(status.ToString(), HasSubstr(part));
  }

  std::unique_ptr<Model> model_;
  ExactBackend backend_;
  std::vector<int32_t> tokens_ = {5, 6, 7};
  std::vector<SequenceView> views_ = std::vector<SequenceView>(2);
  std::vector<StepRows> rows_ = {{0, 0, 2}, {1, 2, 1}};
  std::vector<uint32_t> wanted_ = {1, 2};
  LayerObserver* observer_ = nullptr;
};

TEST_F(BatchCheck, AWellFormedBatchRuns) { EXPECT_TRUE(Run().ok()); }

TEST_F(BatchCheck, NoLogitsWantedIsAllowed) {
  wanted_.clear();
  EXPECT_TRUE(Run().ok());
}

TEST_F(BatchCheck, ATokenOutsideTheVocabularyIsRefused) {
  tokens_[1] = 256;
  ExpectRefused("token 256");
  tokens_[1] = -1;
  ExpectRefused("token -1");
}

TEST_F(BatchCheck, RowsThatDoNotTileTheBatchAreRefused) {
  rows_[1].row = 1;
  ExpectRefused("do not tile");
  rows_[1] = {2, 2, 1};
  ExpectRefused("do not tile");
  rows_.pop_back();
  ExpectRefused("do not tile");
}

TEST_F(BatchCheck, TokensThatOverflowTheOpenGroupAreRefused) {
  views_[0].open_count = 15;
  ExpectRefused("open group of 15");
}

TEST_F(BatchCheck, PositionsBeyondTheModelsAreRefused) {
  views_[1].open_position = 512;
  ExpectRefused("position 512");
  views_[1].open_position = std::numeric_limits<uint32_t>::max();
  ExpectRefused("position");
}

TEST_F(BatchCheck, ALogitRowOutsideTheBatchIsRefused) {
  wanted_[0] = 3;
  ExpectRefused("logit row 3");
}

class Counter final : public LayerObserver {
 public:
  explicit Counter(std::vector<int> layers) : layers_(std::move(layers)) {}
  absl::Span<const int> layers() const override { return layers_; }
  absl::Status AfterAttend(int layer, const LayerActivations& io) override {
    seen.push_back(layer);
    complete = complete && io.q != nullptr && io.scale > 0;
    return absl::OkStatus();
  }
  std::vector<int> seen;
  bool complete = true;

 private:
  const std::vector<int> layers_;
};

TEST_F(BatchCheck, AnObserverSeesTheLayersItNames) {
  for (const std::vector<int>& layers : std::vector<std::vector<int>>{{0, 1}, {1}, {}}) {
    Counter counter(layers);
    observer_ = &counter;
    EXPECT_TRUE(Run().ok());
    EXPECT_EQ(counter.seen, layers);
    EXPECT_TRUE(counter.complete);
  }
}

TEST_F(BatchCheck, AnObserverOfOtherLayersOrInAnotherOrderIsRefused) {
  for (const std::vector<int>& layers : std::vector<std::vector<int>>{{-1}, {2}, {1, 0}, {0, 0}}) {
    Counter counter(layers);
    observer_ = &counter;
    ExpectRefused("cannot be observed");
    EXPECT_TRUE(counter.seen.empty());
  }
}

TEST_F(BatchCheck, GenerateChoosesWhatSampleTokenMakesOfTheLogits) {
  const size_t vocabulary = model_->config().vocab_size;
  std::vector<float> logits(wanted_.size() * vocabulary);
  const StepBatch batch = {tokens_, views_, rows_, wanted_, nullptr};
  ASSERT_TRUE(model_->Forward(batch, backend_, absl::MakeSpan(logits)).ok());
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::vector<SampleSpec> samples = {
        {.params = {.temperature = 3.0f, .seed = seed}, .position = 9},
        {.params = {.temperature = seed % 2 == 0 ? 0.0f : 5.0f, .top_k = 40, .seed = seed}}};
    std::vector<int32_t> tokens(2);
    ASSERT_TRUE(model_->Generate(batch, backend_, samples, absl::MakeSpan(tokens)).ok());
    for (size_t i = 0; i < tokens.size(); ++i) {
      EXPECT_EQ(tokens[i],
                *SampleToken(absl::MakeConstSpan(logits).subspan(i * vocabulary, vocabulary),
                             samples[i].params, samples[i].position));
    }
  }
}

TEST_F(BatchCheck, GenerateWithTooFewSamplesOrTooLittleRoomIsRefused) {
  const StepBatch batch = {tokens_, views_, rows_, wanted_, nullptr};
  const std::vector<SampleSpec> samples(2);
  std::vector<int32_t> tokens(2);
  for (const auto& [given, room] : {std::pair<size_t, size_t>{1, 2}, {2, 1}, {0, 0}}) {
    EXPECT_EQ(model_
                  ->Generate(batch, backend_, absl::MakeConstSpan(samples).first(given),
                             absl::MakeSpan(tokens).first(room))
                  .code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(BatchCheck, ATokenChosenBeforeIsAsGoodAsItsId) {
  const StepBatch batch = {tokens_, views_, rows_, wanted_, nullptr};
  const std::vector<SampleSpec> samples(2);
  std::vector<int32_t> before(2), by_id(2), by_place(2);
  ASSERT_TRUE(model_->Generate(batch, backend_, samples, absl::MakeSpan(before)).ok());
  // The same rows again, with the second and the first token chosen in place of two of theirs.
  std::vector<int32_t> next = tokens_;
  next[0] = before[1];
  next[2] = before[0];
  StepBatch after = batch;
  after.tokens = next;
  ASSERT_TRUE(model_->Generate(after, backend_, samples, absl::MakeSpan(by_id)).ok());
  // Both are ordered before the first one's tokens are asked for.
  next[0] = ChosenBefore(1);
  next[2] = ChosenBefore(0);
  ASSERT_TRUE(model_->StartGenerate(batch, backend_, samples).ok());
  ASSERT_TRUE(model_->StartGenerate(after, backend_, samples).ok());
  EXPECT_EQ(model_->StartGenerate(batch, backend_, samples).code(),
            absl::StatusCode::kFailedPrecondition);
  std::vector<int32_t> one(1), first(2);
  EXPECT_EQ(model_->AwaitTokens(absl::MakeSpan(one)).code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(model_->AwaitTokens(absl::MakeSpan(first)).ok());
  ASSERT_TRUE(model_->AwaitTokens(absl::MakeSpan(by_place)).ok());
  EXPECT_EQ(first, before);
  EXPECT_EQ(by_place, by_id);
  EXPECT_EQ(model_->AwaitTokens(absl::MakeSpan(first)).code(),
            absl::StatusCode::kFailedPrecondition);
  next[0] = ChosenBefore(2);
  EXPECT_EQ(model_->StartGenerate(after, backend_, samples).code(),
            absl::StatusCode::kInvalidArgument);
}

// A backend whose attention gives row 0 what no number is.
class BrokenBackend final : public ExactBackend {
 public:
  explicit BrokenBackend(const ModelConfig& config)
      : ExactBackend(config), query_size_(config.query_size()) {}
  absl::Status Attend(int layer, const LayerActivations& io) override {
    const absl::Status status = ExactBackend::Attend(layer, io);
    std::fill_n(static_cast<float*>(io.out), query_size_, NAN);
    return status;
  }

 private:
  const int query_size_;
};

TEST_F(BatchCheck, LogitsThatAreNotFiniteGiveNoToken) {
  BrokenBackend broken(model_->config());
  wanted_ = {0, 2};
  std::vector<int32_t> tokens(2, 77);
  const std::vector<SampleSpec> samples(2);
  ASSERT_TRUE(model_
                  ->Generate({tokens_, views_, rows_, wanted_, nullptr}, broken, samples,
                             absl::MakeSpan(tokens))
                  .ok());
  EXPECT_EQ(tokens[0], kNoToken);
  EXPECT_GE(tokens[1], 0);
}

TEST(CpuModelFactory, AFolderWithoutAModelIsNotFound) {
  EXPECT_EQ(NewCpuModel("/nonexistent", kOptions).status().code(), absl::StatusCode::kNotFound);
}

TEST(CpuModelFactory, OptionsOutOfRangeAreRefused) {
  CpuModelOptions options = kOptions;
  options.threads = 0;
  EXPECT_THAT(NewCpuModel(std::string(kData) + "qwen2", options).status().ToString(),
              HasSubstr("threads 0"));
}

}  // namespace
}  // namespace palimpsest
