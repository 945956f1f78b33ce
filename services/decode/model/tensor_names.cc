// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/tensor_names.h"

#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/decode/model/counter_random.h"

namespace palimpsest {

int FusedProjection::outputs() const {
  int sum = 0;
  for (const Projection& part : parts) sum += part.outputs;
  return sum;
}

LayerTensors TensorsOfLayer(const ModelConfig& c, int layer) {
  const std::string prefix = absl::StrCat("model.layers.", layer, ".");
  const std::string attention = prefix + "self_attn.";
  const std::string mlp = prefix + "mlp.";
  LayerTensors out;
  out.input_norm = prefix + "input_layernorm.weight";
  out.post_norm = prefix + "post_attention_layernorm.weight";
  if (c.qk_norm) {
    out.q_norm = attention + "q_norm.weight";
    out.k_norm = attention + "k_norm.weight";
  }
  out.qkv = {{{attention + "q_proj", c.query_size()},
              {attention + "k_proj", c.kv_size()},
              {attention + "v_proj", c.kv_size()}},
             c.hidden_size,
             c.qkv_bias};
  out.output = {{{attention + "o_proj", c.hidden_size}}, c.query_size(), c.output_bias};
  out.gate_up = {{{mlp + "gate_proj", c.intermediate_size}, {mlp + "up_proj", c.intermediate_size}},
                 c.hidden_size,
                 c.mlp_bias};
  out.down = {{{mlp + "down_proj", c.hidden_size}}, c.intermediate_size, c.mlp_bias};
  return out;
}

SyntheticTensor SyntheticTensorOf(uint64_t seed, absl::string_view name,
                                  absl::Span<const int64_t> shape) {
  if (absl::EndsWith(name, "norm.weight")) return {.ones = true};
  uint64_t stream = seed;
  for (const char c : name) stream = MixBits(stream ^ static_cast<uint8_t>(c));
  // Uniform on +-b has variance b^2 / 3.
  return {.stream = stream, .bound = std::sqrt(3.0f / static_cast<float>(shape.back()))};
}

}  // namespace palimpsest
