// SPDX-License-Identifier: Apache-2.0
// The engine and its model: which steps it starts, how far ahead, and what it makes of what fails.
#include <gmock/gmock.h>

#include <algorithm>
#include <string>
#include <vector>

#include "services/decode/model/forwarding_model.h"
#include "tests/decode/engine/engine_fixture.h"

namespace palimpsest {
namespace {

// Says of row `row`, at step `step`, that its logits are not finite.
class FailingModel final : public ForwardingModel {
 public:
  FailingModel(Model* model, int step, size_t row)
      : ForwardingModel(model), step_(step), row_(row) {}
  absl::Status AwaitTokens(absl::Span<int32_t> tokens) override {
    const absl::Status status = model().AwaitTokens(tokens);
    if (step_-- == 0) tokens[row_] = kNoToken;
    return status;
  }

 private:
  int step_;
  const size_t row_;
};

// Keeps the queries of layer 0 alone.
class BlindModel final : public ForwardingModel {
 public:
  using ForwardingModel::ForwardingModel;
  bool may_observe(int layer) const override { return layer == 0; }
};

// Counts the steps that are started, and those that are not awaited yet.
class CountingModel final : public ForwardingModel {
 public:
  using ForwardingModel::ForwardingModel;
  int started() const { return started_; }
  int most_ahead() const { return most_ahead_; }
  absl::Status StartGenerate(const StepBatch& batch, Backend& backend,
                             absl::Span<const SampleSpec> samples) override {
    ++started_;
    most_ahead_ = std::max(most_ahead_, ++ahead_);
    return model().StartGenerate(batch, backend, samples);
  }
  absl::Status AwaitTokens(absl::Span<int32_t> tokens) override {
    --ahead_;
    return model().AwaitTokens(tokens);
  }

 private:
  int started_ = 0, ahead_ = 0, most_ahead_ = 0;
};

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
  BlindModel keeps_layer_0(model->get());
  Make({}, nullptr, 16 << 20, &keeps_layer_0);
  GenerateRequest request = Request(1, 10, "thinkv");
  UseLabels(request);
  const std::vector<Admission> admissions = Submit({request});
  EXPECT_EQ(admissions[0].status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(admissions[0].status.message()), testing::HasSubstr("layer 1"));
}

TEST_F(EngineTest, AStepIsOrderedBeforeTheTokensOfTheStepBeforeAreTaken) {
  const auto model = NewSyntheticCpuModel(TinyConfig(), 1, {.rows_max = 128});
  ASSERT_TRUE(model.ok());
  CountingModel counting(model->get());
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
  CountingModel counting(model->get());
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

}  // namespace
}  // namespace palimpsest
