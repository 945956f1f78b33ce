// SPDX-License-Identifier: Apache-2.0
// Teacher forcing: a model whose chains read given texts instead of writing their own.
//
// It stands between the engine and a real model. The engine believes that it generates: a token a
// step through the ordinary decode path, so that policies, seals, anneals and statistics are those
// of generation; but the token "chosen" is the text's next one, whatever the logits say. A chain is
// known by the seed of its sampling, which nothing else needs here.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "services/decode/model/forwarding_model.h"
#include "services/decode/model/started_steps.h"

namespace palimpsest::cli {

// What the model says of the token that follows `position` tokens of a chain's text.
struct ForcedRow {
  uint64_t chain = 0;
  uint32_t position = 0;
  int32_t target = 0;                   // the text's token there
  absl::Span<const float> logits = {};  // [vocab_size], valid during the call
};

// Gets the rows of a step, in the engine's order, on the engine's thread. An error ends the engine.
using ForcedRowSink = std::function<absl::Status(absl::Span<const ForcedRow> rows)>;

class ForcedModel final : public ForwardingModel {
 public:
  // `model` outlives this. The sink gets the positions that are multiples of `every`. Without one
  // no logits leave the model's device.
  ForcedModel(Model* model, ForcedRowSink sink, uint32_t every = 1);

  // A chain that will read `text`, which outlives the chain: the seed for its sampling.
  uint64_t Add(absl::Span<const int32_t> text);

  // InvalidArgument for a seed or a position that no text has.
  absl::Status StartGenerate(const StepBatch& batch, Backend& backend,
                             absl::Span<const SampleSpec> samples) override;
  absl::Status AwaitTokens(absl::Span<int32_t> tokens) override;

 private:
  // Computes the logits that the sink gets, and gives them to it.
  absl::Status TellSink(const StepBatch& batch, Backend& backend,
                        absl::Span<const SampleSpec> samples);

  const ForcedRowSink sink_;
  const uint32_t every_;
  std::vector<absl::Span<const int32_t>> texts_;  // by seed
  ChosenTokens forced_;
  // Scratch.
  std::vector<uint32_t> logit_rows_;  // of a batch, those that the sink gets
  std::vector<float> logits_;         // [logit_rows_, vocab_size]
  std::vector<ForcedRow> rows_;
  std::vector<int32_t> unforced_;
};

}  // namespace palimpsest::cli
