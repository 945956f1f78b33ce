// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "services/decode/model/model_config.h"

namespace palimpsest {

// Small, and of a shape that CUDA kernels take.
inline ModelConfig SmallConfig() {
  ModelConfig c;
  c.hidden_size = 256;
  c.layers = 3;
  c.query_heads = 6;
  c.kv_heads = 2;
  c.head_dim = 64;
  c.intermediate_size = 384;
  c.vocab_size = 502;  // rows of logits are padded
  c.max_positions = 512;
  return c;
}

}  // namespace palimpsest
