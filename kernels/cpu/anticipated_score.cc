// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/anticipated_score.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/codec.h"
#include "kernels/cpu/hadamard.h"
#include "kernels/cpu/key_attention.h"
#include "kernels/cpu/simd.h"

namespace palimpsest {
namespace {

constexpr float kOthersShareMin = 1e-3f;  // what a token leaves to others counts as no less

// How a head turns at one position.
struct Turn {
  std::vector<float> cos, sin;  // [head_dim / 2]

  Turn(const QueryCodebook& book, uint32_t position) {
    for (const float frequency : book.inverse_frequencies) {
      // Rounded to float first, as the model does it.
      const float angle = static_cast<float>(position) * frequency;
      cos.push_back(std::cos(angle) * book.attention_factor);
      sin.push_back(std::sin(angle) * book.attention_factor);
    }
  }
};

// One query of the codebook as attention would get it.
void TurnQuery(const Turn& turn, bool hadamard, const uint16_t* from, absl::Span<float> q) {
  const size_t half = turn.cos.size();
  for (size_t c = 0; c < half; ++c) {
    const float a = Bf16ToFloat(from[c]), b = Bf16ToFloat(from[c + half]);
    q[c] = a * turn.cos[c] - b * turn.sin[c];
    q[c + half] = b * turn.cos[c] + a * turn.sin[c];
  }
  if (hadamard) Hadamard(q);
  for (float& x : q) x = Bf16ToFloat(FloatToBf16(x));
}

// out = the sum of weights[i] * values[i], [weights.size()][head_dim].
void WeightedSum(absl::Span<const float> weights, const float* values, absl::Span<float> out) {
  std::fill(out.begin(), out.end(), 0.0f);
  for (const float weight : weights) {
    for (float& x : out) x += weight * *values++;
  }
}

// distances[i] = |values[i] - from|, [distances.size()][head_dim]. By differences, not by products:
// of a token that has nearly all attention, value and output are nearly the same.
KV_CPU_CLONES void Distances(const float* from, const float* values, size_t head_dim,
                             absl::Span<float> distances) {
  for (float& distance : distances) {
    simd::F32 sum = {};
    for (size_t c = 0; c < head_dim; c += simd::kWidth, values += simd::kWidth) {
      const simd::F32 difference = simd::Load<simd::F32>(values) - simd::Load<simd::F32>(from + c);
      sum += difference * difference;
    }
    distance = std::sqrt(simd::Sum(sum));
  }
}

}  // namespace

std::vector<float> LargestRemovalErrors(const TypicalQueries& queries, absl::Span<const float> keys,
                                        absl::Span<const float> values) {
  const QueryCodebook& book = queries.book;
  const auto dim = static_cast<size_t>(book.head_dim);
  const size_t tokens = keys.size() / dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  const Turn turn(book, queries.position);
  const size_t first_query =
      (static_cast<size_t>(queries.layer) * book.query_heads + queries.first_head) * book.queries;
  std::vector<float> q(dim), output(dim);
  std::vector<float> p(tokens), distances(tokens), largest(tokens, 0.0f);
  for (size_t i = 0; i < size_t{book.queries} * queries.heads; ++i) {
    TurnQuery(turn, queries.hadamard, &book.data[(first_query + i) * dim], absl::MakeSpan(q));
    KeyLogits(q.data(), keys.data(), book.head_dim, scale, absl::MakeSpan(p));
    Softmax(absl::MakeSpan(p));
    WeightedSum(p, values.data(), absl::MakeSpan(output));
    Distances(output.data(), values.data(), dim, absl::MakeSpan(distances));
    for (size_t t = 0; t < tokens; ++t) {
      const float error = p[t] / std::max(1.0f - p[t], kOthersShareMin) * distances[t];
      largest[t] = std::max(largest[t], error);
    }
  }
  return largest;
}

std::vector<float> AnticipatedScores(const ClassLane& lane, const LaneTokens& tokens) {
  const BackendConfig& config = lane.memory.config();
  const auto dim = static_cast<size_t>(lane.head_dim());
  const LaneTokens all = LiveTokens(lane, 0, std::numeric_limits<uint32_t>::max());
  std::vector<float> keys(all.size() * dim), values(keys.size());
  GatherKeys(lane, all, keys.data(), dim);
  GatherValues(lane, all, values.data(), dim);
  const std::vector<float> largest =
      LargestRemovalErrors({.book = *config.codebook,
                            .layer = lane.layer,
                            .first_head = lane.first_query_head(),
                            .heads = lane.group_heads(),
                            .position = lane.view.open_position + lane.view.open_count,
                            .hadamard = config.rotate_keys},
                           keys, values);
  // The segment's tokens lie side by side among all.
  const auto first =
      std::find_if(all.begin(), all.end(),
                   [&](const LiveToken& token) { return token.position == tokens[0].position; }) -
      all.begin();
  return {largest.begin() + first, largest.begin() + first + std::ssize(tokens)};
}

}  // namespace palimpsest
