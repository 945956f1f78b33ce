// SPDX-License-Identifier: Apache-2.0
// That the engine orders steps on a GPU before it has seen the tokens of those before changes
// nothing of what chains say.
#include <string>

#include "services/decode/model/forwarding_model.h"
#include "services/decode/model/started_steps.h"
#include "tests/decode/engine/cuda_engine_fixture.h"

namespace palimpsest {
namespace {

// Has every step's tokens before the next one is asked for, and hands ids alone to the device.
class WaitingModel final : public ForwardingModel {
 public:
  using ForwardingModel::ForwardingModel;
  absl::Status StartGenerate(const StepBatch& batch, Backend& backend,
                             absl::Span<const SampleSpec> samples) override {
    StepBatch known = batch;
    known.tokens = chosen_.Resolve(batch.tokens);
    const absl::Status status =
        model().Generate(known, backend, samples, chosen_.Start(samples.size()));
    return status.ok() ? backend.Synchronize() : status;
  }
  absl::Status AwaitTokens(absl::Span<int32_t> tokens) override { return chosen_.Await(tokens); }

 private:
  ChosenTokens chosen_;
};

TEST_P(CudaEngine, AStepAheadSaysWhatItSaysStepByStep) {
  WaitingModel waiting(model_.get());
  const auto expected = Run(&waiting);
  ASSERT_EQ(expected.size(), kChains);
  for (int i = 0; i < 3; ++i) {  // other timings each time
    const auto found = Run(model_.get());
    ASSERT_EQ(found.size(), expected.size());
    for (const auto& [id, outcome] : expected) {
      const ChainOutcome& other = found.at(id);
      EXPECT_EQ(other.tokens, outcome.tokens) << "chain " << id;
      EXPECT_EQ(other.finished, outcome.finished);
      EXPECT_EQ(other.stats.plan_hash, outcome.stats.plan_hash);
      EXPECT_EQ(other.stats.footprint_byte_steps, outcome.stats.footprint_byte_steps);
      EXPECT_EQ(other.stats.steps, outcome.stats.steps);
    }
  }
}

}  // namespace
}  // namespace palimpsest
