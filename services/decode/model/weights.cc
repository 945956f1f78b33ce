// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/weights.h"

#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "services/decode/model/counter_random.h"

namespace palimpsest {
namespace {

// One projection as it is stored; several with the same input are packed as one matrix.
struct Projection {
  std::string name;  // without ".weight"
  int outputs;
};

class Packer {
 public:
  Packer(const ModelConfig& config, const RowBounds& bounds, const TensorReader& read,
         LinearEngine& engine)
      : config_(config), bounds_(bounds), read_(read), engine_(engine) {}

  absl::StatusOr<Linear> Stack(const std::vector<Projection>& parts, int inputs, bool has_bias) {
    std::vector<float> weights;
    std::vector<float> bias;
    int outputs = 0;
    for (const Projection& part : parts) {
      KV_RETURN_IF_ERROR(AppendTensor(part.name + ".weight", {part.outputs, inputs}, &weights));
      if (has_bias) KV_RETURN_IF_ERROR(AppendTensor(part.name + ".bias", {part.outputs}, &bias));
      outputs += part.outputs;
    }
    return engine_.Pack(inputs, outputs, bounds_.rows_max, weights, bias);
  }

  absl::StatusOr<LayerWeights> Layer(int layer) {
    const ModelConfig& c = config_;
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    const std::string attention = prefix + "self_attn.";
    const std::string mlp = prefix + "mlp.";
    LayerWeights out;
    KV_ASSIGN_OR_RETURN(out.input_norm, read_(prefix + "input_layernorm.weight", {c.hidden_size}));
    KV_ASSIGN_OR_RETURN(out.post_norm,
                        read_(prefix + "post_attention_layernorm.weight", {c.hidden_size}));
    if (c.qk_norm) {
      KV_ASSIGN_OR_RETURN(out.q_norm, read_(attention + "q_norm.weight", {c.head_dim}));
      KV_ASSIGN_OR_RETURN(out.k_norm, read_(attention + "k_norm.weight", {c.head_dim}));
    }
    KV_ASSIGN_OR_RETURN(out.qkv, Stack({{attention + "q_proj", c.query_size()},
                                        {attention + "k_proj", c.kv_size()},
                                        {attention + "v_proj", c.kv_size()}},
                                       c.hidden_size, c.qkv_bias));
    KV_ASSIGN_OR_RETURN(
        out.output, Stack({{attention + "o_proj", c.hidden_size}}, c.query_size(), c.output_bias));
    KV_ASSIGN_OR_RETURN(out.gate_up, Stack({{mlp + "gate_proj", c.intermediate_size},
                                            {mlp + "up_proj", c.intermediate_size}},
                                           c.hidden_size, c.mlp_bias));
    KV_ASSIGN_OR_RETURN(
        out.down, Stack({{mlp + "down_proj", c.hidden_size}}, c.intermediate_size, c.mlp_bias));
    return out;
  }

 private:
  absl::Status AppendTensor(const std::string& name, const std::vector<int64_t>& shape,
                            std::vector<float>* out) {
    KV_ASSIGN_OR_RETURN(std::vector<float> values, read_(name, shape));
    if (out->empty()) {
      *out = std::move(values);
    } else {
      out->insert(out->end(), values.begin(), values.end());
    }
    return absl::OkStatus();
  }

  const ModelConfig& config_;
  const RowBounds& bounds_;
  const TensorReader& read_;
  LinearEngine& engine_;
};

uint64_t HeldBytes(const ModelWeights& weights) {
  size_t floats = weights.embedding.size() + weights.final_norm.size();
  uint64_t bytes = weights.head.bytes();
  for (const LayerWeights& layer : weights.layers) {
    floats += layer.input_norm.size() + layer.post_norm.size() + layer.q_norm.size() +
              layer.k_norm.size();
    bytes += layer.qkv.bytes() + layer.output.bytes() + layer.gate_up.bytes() + layer.down.bytes();
  }
  return bytes + floats * sizeof(float);
}

}  // namespace

absl::StatusOr<ModelWeights> PackWeights(const ModelConfig& config, const RowBounds& bounds,
                                         const TensorReader& read, LinearEngine& engine) {
  Packer packer(config, bounds, read, engine);
  ModelWeights out;
  const std::vector<int64_t> table = {config.vocab_size, config.hidden_size};
  KV_ASSIGN_OR_RETURN(out.embedding, read("model.embed_tokens.weight", table));
  for (int layer = 0; layer < config.layers; ++layer) {
    KV_ASSIGN_OR_RETURN(LayerWeights weights, packer.Layer(layer));
    out.layers.push_back(std::move(weights));
  }
  KV_ASSIGN_OR_RETURN(out.final_norm, read("model.norm.weight", {config.hidden_size}));
  std::vector<float> untied;
  if (!config.tied_embeddings) {
    KV_ASSIGN_OR_RETURN(untied, read("lm_head.weight", table));
  }
  KV_ASSIGN_OR_RETURN(out.head,
                      engine.Pack(config.hidden_size, config.vocab_size, bounds.logit_rows_max,
                                  untied.empty() ? out.embedding : untied, {}));
  out.bytes = HeldBytes(out);
  return out;
}

TensorReader SyntheticTensors(uint64_t seed) {
  return [seed](absl::string_view name,
                absl::Span<const int64_t> shape) -> absl::StatusOr<std::vector<float>> {
    size_t size = 1;
    for (const int64_t n : shape) size *= static_cast<size_t>(n);
    std::vector<float> out(size, 1.0f);
    if (absl::EndsWith(name, "norm.weight")) return out;
    uint64_t stream = seed;
    for (const char c : name) stream = MixBits(stream ^ static_cast<uint8_t>(c));
    // Uniform on +-sqrt(3 / fan_in): variance 1 / fan_in, so activations keep their size.
    const float bound = std::sqrt(3.0f / static_cast<float>(shape.back()));
    for (size_t i = 0; i < size; ++i) {
      out[i] = bound * static_cast<float>(2.0 * CounterUniform(stream, i) - 1.0);
    }
    return out;
  };
}

}  // namespace palimpsest
