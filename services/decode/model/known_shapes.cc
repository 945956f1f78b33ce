// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/known_shapes.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/text.h"
#include "services/decode/model/tensor_names.h"

namespace palimpsest {
namespace {

struct Shape {
  const char* name;
  ModelFamily family;
  int hidden_size;
  int layers;
  int query_heads;
  int kv_heads;
  int head_dim;
  int intermediate_size;
  int vocab_size;
  int max_positions;
  float rms_eps;
  double rope_theta;
  bool tied_embeddings;
};

// From the config.json of each on Hugging Face (of Qwen2.5 the instruction-tuned ones).
constexpr Shape kShapes[] = {
    {"llama-3-8b", ModelFamily::kLlama, 4096, 32, 32, 8, 128, 14336, 128256, 8192, 1e-5f, 5e5,
     false},
    {"qwen2.5-1.5b", ModelFamily::kQwen2, 1536, 28, 12, 2, 128, 8960, 151936, 32768, 1e-6f, 1e6,
     true},
    {"qwen2.5-14b", ModelFamily::kQwen2, 5120, 48, 40, 8, 128, 13824, 152064, 32768, 1e-6f, 1e6,
     false},
    {"qwen3-8b", ModelFamily::kQwen3, 4096, 36, 32, 8, 128, 12288, 151936, 40960, 1e-6f, 1e6,
     false},
    {"smollm2-135m", ModelFamily::kLlama, 576, 30, 9, 3, 64, 1536, 49152, 8192, 1e-5f, 1e5, true},
};

ModelConfig ConfigOf(const Shape& shape) {
  ModelConfig config;
  config.family = shape.family;
  config.hidden_size = shape.hidden_size;
  config.layers = shape.layers;
  config.query_heads = shape.query_heads;
  config.kv_heads = shape.kv_heads;
  config.head_dim = shape.head_dim;
  config.intermediate_size = shape.intermediate_size;
  config.vocab_size = shape.vocab_size;
  config.max_positions = shape.max_positions;
  config.rms_eps = shape.rms_eps;
  config.rope.theta = shape.rope_theta;
  config.tied_embeddings = shape.tied_embeddings;
  config.qkv_bias = shape.family == ModelFamily::kQwen2;
  config.qk_norm = shape.family == ModelFamily::kQwen3;
  return config;
}

uint64_t Count(const FusedProjection& fused) {
  const uint64_t outputs = static_cast<uint64_t>(fused.outputs());
  return outputs * static_cast<uint64_t>(fused.inputs) + (fused.has_bias ? outputs : 0);
}

}  // namespace

std::vector<std::string> KnownShapeNames() {
  std::vector<std::string> names;
  for (const Shape& shape : kShapes) names.emplace_back(shape.name);
  return names;
}

absl::StatusOr<ModelConfig> KnownShape(absl::string_view name) {
  for (const Shape& shape : kShapes) {
    if (name == shape.name) return ConfigOf(shape);
  }
  return absl::InvalidArgumentError(absl::StrCat("no shape ", Quoted(name), "; known are ",
                                                 absl::StrJoin(KnownShapeNames(), ", ")));
}

uint64_t ParameterCount(const ModelConfig& config) {
  const LayerTensors layer = TensorsOfLayer(config, 0);
  const auto hidden = static_cast<uint64_t>(config.hidden_size);
  const uint64_t norms = 2 * hidden + (config.qk_norm ? 2 * uint64_t(config.head_dim) : 0);
  const uint64_t of_layer =
      Count(layer.qkv) + Count(layer.output) + Count(layer.gate_up) + Count(layer.down) + norms;
  const uint64_t table = static_cast<uint64_t>(config.vocab_size) * hidden;
  return static_cast<uint64_t>(config.layers) * of_layer + hidden +
         table * (config.tied_embeddings ? 1 : 2);
}

}  // namespace palimpsest
