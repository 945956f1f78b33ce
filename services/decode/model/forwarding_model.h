// SPDX-License-Identifier: Apache-2.0
// A model that hands every call to another one: the base of those that stand between the engine and
// a real model, which override what they change.
#pragma once

#include "services/decode/model/model.h"

namespace palimpsest {

class ForwardingModel : public Model {
 public:
  // `model` outlives this.
  explicit ForwardingModel(Model* model) : model_(model) {}

  const ModelConfig& config() const override { return model_->config(); }
  int rows_max() const override { return model_->rows_max(); }
  int logit_rows_max() const override { return model_->logit_rows_max(); }
  bool may_observe(int layer) const override { return model_->may_observe(layer); }
  uint64_t weight_bytes() const override { return model_->weight_bytes(); }
  absl::Status Forward(const StepBatch& batch, Backend& backend,
                       absl::Span<float> logits) override {
    return model_->Forward(batch, backend, logits);
  }
  absl::Status StartGenerate(const StepBatch& batch, Backend& backend,
                             absl::Span<const SampleSpec> samples) override {
    return model_->StartGenerate(batch, backend, samples);
  }
  absl::Status AwaitTokens(absl::Span<int32_t> tokens) override {
    return model_->AwaitTokens(tokens);
  }

 protected:
  Model& model() { return *model_; }

 private:
  Model* const model_;
};

}  // namespace palimpsest
