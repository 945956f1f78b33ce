// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "services/decode/model/model_config.h"

namespace palimpsest {

// A model small enough that a test runs thousands of its steps.
inline ModelConfig TinyConfig() {
  ModelConfig config;
  config.hidden_size = 64;
  config.layers = 2;
  config.query_heads = 4;
  config.kv_heads = 2;
  config.head_dim = 16;
  config.intermediate_size = 96;
  config.vocab_size = 128;
  config.tied_embeddings = true;
  config.max_positions = 8192;
  return config;
}

}  // namespace palimpsest
