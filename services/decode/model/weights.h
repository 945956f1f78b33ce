// SPDX-License-Identifier: Apache-2.0
// The weights of a model, packed for the CPU: read under their Hugging Face names from any source.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "services/decode/model/linear.h"
#include "services/decode/model/model_config.h"

namespace palimpsest {

// Gives the tensor of that name and shape as floats, row-major.
using TensorReader = std::function<absl::StatusOr<std::vector<float>>(
    absl::string_view name, absl::Span<const int64_t> shape)>;

struct LayerWeights {
  std::vector<float> input_norm;      // [hidden]
  std::vector<float> post_norm;       // [hidden]
  std::vector<float> q_norm, k_norm;  // [head_dim]; empty without q/k norm
  Linear qkv;                         // rows of q, then k, then v: one product instead of three
  Linear output;                      // o_proj
  Linear gate_up;                     // rows of gate, then up
  Linear down;
};

struct ModelWeights {
  std::vector<float> embedding;  // [vocab, hidden]
  std::vector<LayerWeights> layers;
  std::vector<float> final_norm;  // [hidden]
  Linear head;                    // lm_head, or the embedding again when tied
  uint64_t bytes = 0;             // all of the above, as held
};

struct RowBounds {
  int rows_max = 0;
  int logit_rows_max = 0;
};

// Reads and packs everything. The reader's status, or oneDNN's.
absl::StatusOr<ModelWeights> PackWeights(const ModelConfig& config, const RowBounds& bounds,
                                         const TensorReader& read, LinearEngine& engine);

// Random weights with the variances of a fresh model, from (seed, tensor name).
TensorReader SyntheticTensors(uint64_t seed);

}  // namespace palimpsest
