// SPDX-License-Identifier: Apache-2.0
// A decoder-only transformer that runs one step for a ragged batch. It owns weights and scratch;
// the cache belongs to the Backend, and which pages a sequence has to the caller.
//
// One step adds 1..16 new tokens to each of its sequences (one when decoding; up to what is left
// of the open group when reading a prompt). Forward appends K and V of the new tokens to the open
// groups, attends, and gives logits of each sequence's last new token where they are wanted.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "services/decode/model/model_config.h"

namespace palimpsest {

// What a refresh asks of a step: attention sparsity of one sequence's last row in chosen layers.
struct SparsityRequest {
  uint32_t rows = 0;                    // index into StepBatch::rows
  absl::Span<const uint32_t> layers;    // ascending
  absl::Span<float> sparsity;           // one value a layer, written by Forward
};

// Memory behind the spans belongs to the caller and outlives the call.
struct StepBatch {
  absl::Span<const SequenceView> sequences;
  absl::Span<const StepRows> rows;       // in row order; row counts sum to tokens.size()
  absl::Span<const int32_t> tokens;      // [rows_total]
  absl::Span<const uint32_t> positions;  // [rows_total], for RoPE
  absl::Span<const uint8_t> wants_logits;  // [rows.size()], of the last row of each entry
  absl::Span<const SparsityRequest> sparsity;
};

class Model {
 public:
  virtual ~Model() = default;

  virtual const ModelConfig& config() const = 0;
  // Rows one step may hold in total.
  virtual int rows_max() const = 0;
  // Runs one step. `logits` is [number of wants_logits set, vocab_size], fp32, in the order of
  // `rows`. InvalidArgument for a token out of the vocabulary or a batch beyond rows_max;
  // otherwise what the backend returns. The caller raises open_count afterwards.
  virtual absl::Status Forward(const StepBatch& batch, Backend& backend,
                               absl::Span<float> logits) = 0;
};

}  // namespace palimpsest
