// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/anticipated_score.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/codec.h"
#include "kernels/cpu/hadamard.h"
#include "kernels/cpu/key_attention.h"

namespace palimpsest {
namespace {

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

}  // namespace

std::vector<float> AnticipatedScores(const ClassLane& lane, const LaneTokens& tokens) {
  const BackendConfig& config = lane.memory.config();
  const QueryCodebook& book = *config.codebook;
  const auto dim = static_cast<size_t>(lane.head_dim());
  const LaneTokens all = LiveTokens(lane, 0, std::numeric_limits<uint32_t>::max());
  std::vector<float> keys(all.size() * dim);
  GatherKeys(lane, all, keys.data(), dim);

  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  const Turn turn(book, lane.view.open_position + lane.view.open_count);
  const size_t first_query =
      (static_cast<size_t>(lane.layer) * config.query_heads + lane.first_query_head()) *
      book.queries;
  std::vector<float> q(dim), probabilities(all.size()), largest(all.size(), 0.0f);
  for (size_t i = 0; i < size_t{book.queries} * lane.group_heads(); ++i) {
    TurnQuery(turn, config.rotate_keys, &book.data[(first_query + i) * dim], absl::MakeSpan(q));
    KeyLogits(q.data(), keys.data(), lane.head_dim(), scale, absl::MakeSpan(probabilities));
    Softmax(absl::MakeSpan(probabilities));
    for (size_t t = 0; t < all.size(); ++t) largest[t] = std::max(largest[t], probabilities[t]);
  }
  // The segment's tokens lie side by side among all.
  const auto first =
      std::find_if(all.begin(), all.end(),
                   [&](const LiveToken& token) { return token.position == tokens[0].position; }) -
      all.begin();
  return {largest.begin() + first, largest.begin() + first + std::ssize(tokens)};
}

}  // namespace palimpsest
