// SPDX-License-Identifier: Apache-2.0
// Which tensors a model of the Llama, Qwen2 and Qwen3 families has, under their Hugging Face names,
// and what random ones are drawn from. Shared by all places that hold weights.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "services/decode/model/model_config.h"

namespace palimpsest {

inline constexpr absl::string_view kEmbeddingName = "model.embed_tokens.weight";  // [vocab, hidden]
inline constexpr absl::string_view kFinalNormName = "model.norm.weight";          // [hidden]
inline constexpr absl::string_view kHeadName = "lm_head.weight";  // [vocab, hidden], unless tied

// One projection as it is stored: weights [outputs, inputs], bias [outputs].
struct Projection {
  std::string name;
  int outputs = 0;

  std::string weight() const { return name + ".weight"; }
  std::string bias() const { return name + ".bias"; }
};

// Projections of the same input, held as one matrix: the rows of the first, then of the next.
struct FusedProjection {
  std::vector<Projection> parts;
  int inputs = 0;
  bool has_bias = false;

  int outputs() const;
};

struct LayerTensors {
  std::string input_norm;      // [hidden]
  std::string post_norm;       // [hidden]
  std::string q_norm, k_norm;  // [head_dim]; empty without q/k norm
  FusedProjection qkv;
  FusedProjection output;
  FusedProjection gate_up;
  FusedProjection down;
};

LayerTensors TensorsOfLayer(const ModelConfig& config, int layer);

// What a random tensor is filled with: element i is `bound` * (2 * CounterUniform(stream, i) - 1),
// or 1 everywhere for norms. Its variance is 1 / fan_in, as in a fresh model, so that activations
// keep their size.
struct SyntheticTensor {
  bool ones = false;
  uint64_t stream = 0;
  float bound = 0.0f;
};
SyntheticTensor SyntheticTensorOf(uint64_t seed, absl::string_view name,
                                  absl::Span<const int64_t> shape);

}  // namespace palimpsest
