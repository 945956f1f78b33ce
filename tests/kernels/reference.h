// SPDX-License-Identifier: Apache-2.0
// Literal, slow versions of what kernels compute, in fp64: the truth that errors are measured
// against. Written from the definitions, sharing no code with kernels/cpu.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace palimpsest::reference {

using Vector = std::vector<double>;

// One token of one lane, de-quantised or original.
struct Token {
  uint32_t position = 0;
  Vector k;
  Vector v;
  double count = 1.0;  // so many of these there are: a key that attention meets as often
};

// softmax(scale q · K): how much `q` attends to each of `tokens`.
Vector AttentionWeights(const Vector& q, const std::vector<Token>& tokens, double scale);

// softmax(scale q · K) V over `tokens`; the size of a value.
Vector Attention(const Vector& q, const std::vector<Token>& tokens, double scale);

// ThinKV appendix C.2. heads[h] holds KV head h's live tokens, queries[h] the query heads of its
// group. Key j of a head is its j-th by position.
double Sparsity(const std::vector<std::vector<Vector>>& queries,
                std::vector<std::vector<Token>> heads, double scale);

// K-means medoids as kernels/cpu/kmeans.h defines them. keys[i] is token i, in order of position.
// Ascending indices.
std::vector<uint32_t> KMeansMedoids(const std::vector<Vector>& keys, uint32_t keep);

// Row i of the orthonormal Hadamard matrix times x, by definition.
Vector Hadamard(const Vector& x);

// A query or key as it stands at a position whose angles are `angles`: channel c turns together
// with channel c + D / 2. Lengths are multiplied by `factor`.
Vector Rope(const Vector& x, const Vector& angles, double factor);

// R-KV's joint score of each token but the `recent` newest; `tokens` in order of position,
// queries[w] the query heads of the group at the w-th of the newest tokens (kernels/README.md).
Vector JointScores(const std::vector<std::vector<Vector>>& queries,
                   const std::vector<Token>& tokens, size_t recent, double scale);

// The largest distance that any of `queries`' outputs would move if a token were not there: with
// its weight p and the output o, p / max(1 - p, 0.001) |v - o|.
Vector AnticipatedScores(const std::vector<Vector>& queries, const std::vector<Token>& tokens,
                         double scale);

}  // namespace palimpsest::reference
