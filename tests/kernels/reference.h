// SPDX-License-Identifier: Apache-2.0
// Literal, slow versions of what kernels compute, in fp64: the truth that errors are measured
// against. Written from the definitions, sharing no code with kernels/cpu.
#pragma once

#include <cstdint>
#include <vector>

namespace palimpsest::reference {

using Vector = std::vector<double>;

// One token of one lane, de-quantised or original.
struct Token {
  uint32_t position = 0;
  Vector k;
  Vector v;
};

// softmax(scale q · K) V over `tokens`; the size of a value.
Vector Attention(const Vector& q, const std::vector<Token>& tokens, double scale);

// ThinKV appendix C.2. heads[h] holds KV head h's live tokens, queries[h] the query heads of its
// group. Key j of a head is its j-th by position.
double Sparsity(const std::vector<std::vector<Vector>>& queries,
                std::vector<std::vector<Token>> heads, double scale);

// K-means medoids as kernels/cpu/kmeans.h defines them. keys[i] is token i, in order of position.
// Ascending indices.
std::vector<uint32_t> KMeansMedoids(const std::vector<Vector>& keys, uint32_t keep);

}  // namespace palimpsest::reference
