// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/weights.h"

#include <utility>

#include "common/base/status_macros.h"
#include "services/decode/model/counter_random.h"
#include "services/decode/model/tensor_names.h"

namespace palimpsest {
namespace {

class Packer {
 public:
  Packer(const ModelConfig& config, const RowBounds& bounds, const TensorReader& read,
         LinearEngine& engine)
      : config_(config), bounds_(bounds), read_(read), engine_(engine) {}

  absl::StatusOr<Linear> Stack(const FusedProjection& fused) {
    std::vector<float> weights;
    std::vector<float> bias;
    for (const Projection& part : fused.parts) {
      KV_RETURN_IF_ERROR(AppendTensor(part.weight(), {part.outputs, fused.inputs}, &weights));
      if (fused.has_bias) KV_RETURN_IF_ERROR(AppendTensor(part.bias(), {part.outputs}, &bias));
    }
    return engine_.Pack(fused.inputs, fused.outputs(), bounds_.rows_max, weights, bias);
  }

  absl::StatusOr<LayerWeights> Layer(int layer) {
    const ModelConfig& c = config_;
    const LayerTensors tensors = TensorsOfLayer(c, layer);
    LayerWeights out;
    KV_ASSIGN_OR_RETURN(out.input_norm, read_(tensors.input_norm, {c.hidden_size}));
    KV_ASSIGN_OR_RETURN(out.post_norm, read_(tensors.post_norm, {c.hidden_size}));
    if (c.qk_norm) {
      KV_ASSIGN_OR_RETURN(out.q_norm, read_(tensors.q_norm, {c.head_dim}));
      KV_ASSIGN_OR_RETURN(out.k_norm, read_(tensors.k_norm, {c.head_dim}));
    }
    KV_ASSIGN_OR_RETURN(out.qkv, Stack(tensors.qkv));
    KV_ASSIGN_OR_RETURN(out.output, Stack(tensors.output));
    KV_ASSIGN_OR_RETURN(out.gate_up, Stack(tensors.gate_up));
    KV_ASSIGN_OR_RETURN(out.down, Stack(tensors.down));
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
  KV_ASSIGN_OR_RETURN(out.embedding, read(kEmbeddingName, table));
  for (int layer = 0; layer < config.layers; ++layer) {
    KV_ASSIGN_OR_RETURN(LayerWeights weights, packer.Layer(layer));
    out.layers.push_back(std::move(weights));
  }
  KV_ASSIGN_OR_RETURN(out.final_norm, read(kFinalNormName, {config.hidden_size}));
  std::vector<float> untied;
  if (!config.tied_embeddings) {
    KV_ASSIGN_OR_RETURN(untied, read(kHeadName, table));
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
    const SyntheticTensor tensor = SyntheticTensorOf(seed, name, shape);
    if (tensor.ones) return out;
    for (size_t i = 0; i < size; ++i) {
      const double uniform = CounterUniform(tensor.stream, i);
      out[i] = tensor.bound * static_cast<float>(2.0 * uniform - 1.0);
    }
    return out;
  };
}

}  // namespace palimpsest
