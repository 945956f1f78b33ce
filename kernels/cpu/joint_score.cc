// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/joint_score.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/key_attention.h"
#include "kernels/cpu/query_window.h"

namespace palimpsest {
namespace {

constexpr float kImportanceWeight = 0.1f;  // lambda
constexpr float kSimilar = 0.5f;           // T
constexpr size_t kPoolReach = 3;           // of a window of 7
constexpr float kNormFloor = 1e-8f;

// The largest of each value's neighbours, itself among them.
std::vector<float> MaxPool(const std::vector<float>& x) {
  std::vector<float> pooled(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t first = i < kPoolReach ? 0 : i - kPoolReach;
    const size_t end = std::min(x.size(), i + kPoolReach + 1);
    pooled[i] = *std::max_element(x.begin() + first, x.begin() + end);
  }
  return pooled;
}

// Of the first `candidates` keys.
std::vector<float> Importance(const ClassLane& lane, const std::vector<float>& keys,
                              size_t candidates) {
  const int dim = lane.head_dim();
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  const uint32_t kept = QueriesKept(lane.memory, lane.view);
  const std::vector<float> queries = NewestQueries(lane);
  const float* q = queries.data();
  std::vector<float> mean(candidates, 0.0f), largest(candidates), logits(candidates);
  for (uint32_t w = 0; w < kept; ++w) {
    for (int g = 0; g < lane.group_heads(); ++g, q += dim) {
      KeyLogits(q, keys.data(), dim, scale, absl::MakeSpan(logits));
      for (size_t i = 0; i < candidates; ++i) {
        largest[i] = g == 0 ? logits[i] : std::max(largest[i], logits[i]);
      }
    }
    Softmax(absl::MakeSpan(largest));
    for (size_t i = 0; i < candidates; ++i) mean[i] += largest[i] / static_cast<float>(kept);
  }
  return MaxPool(mean);
}

// Normalises `keys`, [tokens][head_dim], in place.
std::vector<float> Redundancy(std::vector<float>& keys, size_t tokens, int head_dim) {
  const auto dim = static_cast<size_t>(head_dim);
  for (size_t i = 0; i < tokens; ++i) {
    float* const key = &keys[i * dim];
    float sum = 0.0f;
    for (size_t c = 0; c < dim; ++c) sum += key[c] * key[c];
    const float norm = std::sqrt(sum) + kNormFloor;
    for (size_t c = 0; c < dim; ++c) key[c] /= norm;
  }
  std::vector<float> row(tokens), redundancy(tokens);
  std::vector<double> column_sums(tokens, 0.0);
  for (size_t i = 0; i < tokens; ++i) {
    KeyLogits(&keys[i * dim], keys.data(), head_dim, 1.0f, absl::MakeSpan(row));
    row[i] = 0.0f;
    const auto newest =
        std::find_if(row.rbegin(), row.rend(), [](float cosine) { return cosine > kSimilar; });
    if (newest != row.rend()) *newest = 0.0f;
    for (size_t j = 0; j < tokens; ++j) column_sums[j] += row[j];
  }
  for (size_t j = 0; j < tokens; ++j) {
    redundancy[j] = static_cast<float>(column_sums[j] / static_cast<double>(tokens));
  }
  Softmax(absl::MakeSpan(redundancy));
  return redundancy;
}

}  // namespace

std::vector<float> JointScores(const ClassLane& lane, const LaneTokens& tokens, uint32_t recent) {
  const auto dim = static_cast<size_t>(lane.head_dim());
  const size_t candidates = tokens.size() - recent;
  std::vector<float> keys(tokens.size() * dim);
  GatherKeys(lane, tokens, keys.data(), dim);
  const std::vector<float> importance = Importance(lane, keys, candidates);
  const std::vector<float> redundancy = Redundancy(keys, tokens.size(), lane.head_dim());
  std::vector<float> scores(tokens.size(), 0.0f);
  for (size_t i = 0; i < candidates; ++i) {
    scores[i] = kImportanceWeight * importance[i] - (1.0f - kImportanceWeight) * redundancy[i];
  }
  return scores;
}

}  // namespace palimpsest
