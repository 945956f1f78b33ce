// SPDX-License-Identifier: Apache-2.0
// What a Hugging Face folder says about its model: the Llama, Qwen2 and Qwen3 families.
//
// The file is untrusted: every number has bounds, and a setting that would change the arithmetic
// and is not implemented is refused by name. A config that loads is one the engine computes right.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/layout.h"

namespace palimpsest {

enum class ModelFamily : uint8_t { kLlama, kQwen2, kQwen3 };

enum class RopeScaling : uint8_t { kNone, kLinear, kLlama3, kYarn };

// Rotary embedding settings. Fields below `factor` belong to the scaling named beside them.
struct RopeConfig {
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;                // linear, llama3, yarn
  double original_max_positions = 0;  // llama3, yarn
  double low_freq_factor = 1.0;       // llama3
  double high_freq_factor = 4.0;      // llama3
  double beta_fast = 32.0;            // yarn
  double beta_slow = 1.0;             // yarn
  bool truncate = true;               // yarn: round the correction range outwards
  double attention_factor = 1.0;      // yarn: multiplies cos and sin; already derived
};

struct ModelConfig {
  ModelFamily family = ModelFamily::kLlama;
  int hidden_size = 0;
  int layers = 0;
  int query_heads = 0;
  int kv_heads = 0;  // divides query_heads
  int head_dim = 0;  // a multiple of 16
  int intermediate_size = 0;
  int vocab_size = 0;
  float rms_eps = 1e-6f;
  bool tied_embeddings = false;
  bool qkv_bias = false;
  bool output_bias = false;  // of o_proj
  bool mlp_bias = false;
  bool qk_norm = false;
  RopeConfig rope;
  std::vector<int32_t> eos_ids;  // empty when the folder names none
  std::optional<int32_t> bos_id;
  int max_positions = 0;  // tokens a sequence may have

  CacheShape cache_shape() const {
    return {.layers = layers, .kv_heads = kv_heads, .head_dim = head_dim};
  }
  int query_size() const { return query_heads * head_dim; }
  int kv_size() const { return kv_heads * head_dim; }
};

// "llama", "qwen2", "qwen3".
absl::string_view Name(ModelFamily family);

// Reads the text of a config.json. InvalidArgument names the key, what was found, what is allowed.
absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view text);

// Reads config.json of a folder. generation_config.json, where present, has the last word on the
// ids that end a text, as in transformers. NotFound when there is no config.json.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& folder);

}  // namespace palimpsest
