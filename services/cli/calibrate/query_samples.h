// SPDX-License-Identifier: Apache-2.0
// A uniform sample of the queries that a model asks while it generates: of some tokens, the queries
// of every layer and head, as they were before RoPE.
//
// Which tokens are kept depends on their count alone (algorithm R with a counter-based generator),
// so the same runs give the same sample. All memory is taken when it is made.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "services/decode/model/model_config.h"
#include "services/decode/model/rope.h"

namespace palimpsest::cli {

// A token whose queries are to be kept.
struct KeptToken {
  uint32_t row = 0;       // of the step's activations
  uint32_t position = 0;  // in its sequence
  uint32_t slot = 0;      // of the sample
};

class QuerySamples {
 public:
  // Of up to `capacity` tokens. A step keeps at most `step_tokens_max` of them.
  QuerySamples(const ModelConfig& config, uint32_t capacity, int step_tokens_max);

  // Called once for each token that takes part: the slot of the sample that it gets, or nothing. A
  // slot that is given a second time forgets what was in it.
  std::optional<uint32_t> Offer();

  // The tokens that this step keeps, before the first Take of the step.
  void BeginStep(std::vector<KeptToken> kept);
  absl::Span<const KeptToken> kept() const { return kept_; }

  // Takes one layer's queries of the step's kept tokens. `q`: host memory, [rows, query_heads,
  // head_dim] after RoPE, of the backend's activation type.
  void Take(int layer, ActivationType type, const void* q);

  uint64_t offered() const { return offered_; }
  uint32_t count() const;  // tokens in the sample
  // [count, head_dim] bf16, of one head.
  absl::Span<const uint16_t> of(int layer, int query_head) const;

  static uint64_t Bytes(const ModelConfig& config, uint32_t capacity);

 private:
  const int query_heads_, head_dim_;
  const uint32_t capacity_;
  uint64_t offered_ = 0;
  std::vector<KeptToken> kept_;
  RotaryTable rotary_;             // of the kept tokens' positions
  std::vector<float> token_;       // [query_heads, head_dim]
  std::vector<uint16_t> queries_;  // [layers, query_heads, capacity, head_dim] bf16
};

}  // namespace palimpsest::cli
