// SPDX-License-Identifier: Apache-2.0
// Where selectors find the queries they judge keys by.
#pragma once

#include <cstdint>

namespace palimpsest::cuda {

// A codebook (kernels/query_codebook.h). [layers][kv_heads] books (operand_book.h) of `queries`
// rows: those of all heads of the group, then zeros up to a multiple of 64.
struct CodebookOnDevice {
  const uint8_t* books = nullptr;
  const float* inverse_frequencies = nullptr;  // [head_dim / 2]
  float attention_factor = 1.0f;
  uint32_t queries = 0;       // rows of a book that are queries
  uint32_t queries_room = 0;  // rows of a book
};

// The newest `window` queries of every open group: [open groups][layers][query_heads][window][D]
// bf16; that of position p at p % window.
struct QueryWindows {
  uint8_t* queries = nullptr;
  uint32_t window = 0;
};

}  // namespace palimpsest::cuda
