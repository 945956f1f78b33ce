// SPDX-License-Identifier: Apache-2.0
// A Model without weights: its queries, keys and values are drawn at random, with the structure
// that policies feed on. A token is about one of a few topics, and is now and then a copy of
// another one about it, so keys (before RoPE) are similar or equal. A query asks for a topic, and
// for some runs of tokens more sharply than for others. Norms of values differ widely.
#pragma once

#include <vector>

#include "kernels/query_codebook.h"
#include "services/decode/model/model.h"
#include "services/decode/model/rope.h"
#include "services/decode/model/started_steps.h"

namespace palimpsest {

class RandomModel final : public Model {
 public:
  RandomModel(const ModelConfig& config, uint64_t seed);

  // Queries that it could ask, before RoPE.
  QueryCodebook Codebook(uint32_t queries) const;

  const ModelConfig& config() const override { return config_; }
  int rows_max() const override { return kRowsMax; }
  int logit_rows_max() const override { return 1; }
  bool may_observe(int /*layer*/) const override { return true; }
  uint64_t weight_bytes() const override { return 0; }
  absl::Status Forward(const StepBatch& batch, Backend& backend, absl::Span<float> logits) override;
  // Every token is token 0.
  absl::Status StartGenerate(const StepBatch& batch, Backend& backend,
                             absl::Span<const SampleSpec> samples) override;
  absl::Status AwaitTokens(absl::Span<int32_t> tokens) override { return chosen_.Await(tokens); }

 private:
  static constexpr int kRowsMax = 16;

  // What number `stream` of a kind says about channel `channel`: a standard normal draw.
  float Normal(uint64_t kind, uint64_t stream, int channel) const;
  double Uniform(uint64_t kind, uint64_t stream) const;
  uint64_t TopicOf(uint32_t position) const;
  void FillQuery(uint64_t draw, float sharpness, int layer, int head, float* out) const;
  void FillKeyAndValue(uint32_t position, int layer, int head, float* key, float* value) const;
  // The step's rows of one layer.
  NewTokens Fill(uint32_t position, uint32_t rows, int layer);

  const ModelConfig config_;
  const uint64_t seed_;
  RotaryTable rotary_;
  ChosenTokens chosen_;
  std::vector<float> q_, k_, v_, out_;
};

}  // namespace palimpsest
