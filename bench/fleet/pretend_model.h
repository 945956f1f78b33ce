// SPDX-License-Identifier: Apache-2.0
// A Model that, while its PretendBackend pretends, says random tokens without computing anything.
// Steps to be awaited may be pretended ones when it stops pretending, but none when it begins to.
#pragma once

#include "bench/fleet/pretend_backend.h"
#include "services/decode/model/model.h"
#include "services/decode/model/started_steps.h"

namespace palimpsest::bench {

class PretendModel final : public Model {
 public:
  // Both outlive this.
  PretendModel(Model* model, const PretendBackend* backend);

  const ModelConfig& config() const override { return model_->config(); }
  int rows_max() const override { return model_->rows_max(); }
  int logit_rows_max() const override { return model_->logit_rows_max(); }
  bool may_observe(int layer) const override { return model_->may_observe(layer); }
  uint64_t weight_bytes() const override { return model_->weight_bytes(); }
  absl::Status Forward(const StepBatch& batch, Backend& backend, absl::Span<float> logits) override;
  absl::Status StartGenerate(const StepBatch& batch, Backend& backend,
                             absl::Span<const SampleSpec> samples) override;
  absl::Status AwaitTokens(absl::Span<int32_t> tokens) override;

 private:
  Model* const model_;
  const PretendBackend* const backend_;
  uint32_t random_ = 1;
  ChosenTokens pretended_;
  bool last_pretended_ = false;  // was the step started last?
};

}  // namespace palimpsest::bench
