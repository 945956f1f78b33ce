// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "kernels/query_codebook.h"
#include "services/decode/model/model_config.h"

namespace palimpsest {

// `queries` a head of no meaning, always the same.
inline std::shared_ptr<const QueryCodebook> RandomCodebook(const ModelConfig& config,
                                                           uint32_t queries) {
  auto book = std::make_shared<QueryCodebook>();
  *book = {.layers = config.layers,
           .query_heads = config.query_heads,
           .head_dim = config.head_dim,
           .queries = queries,
           .data = {},
           .inverse_frequencies = std::vector<float>(config.head_dim / 2, 0.01f)};
  std::mt19937 random(1);
  const size_t values = size_t{queries} * config.layers * config.query_heads * config.head_dim;
  for (size_t i = 0; i < values; ++i) {
    // bf16 of magnitude 0.5 to 2, of either sign.
    book->data.push_back(static_cast<uint16_t>(0x3f00 + random() % 0x100 + (random() % 2 << 15)));
  }
  return book;
}

}  // namespace palimpsest
