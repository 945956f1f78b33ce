// SPDX-License-Identifier: Apache-2.0
// What a codebook of typical queries (kernels/query_codebook.h) would miss, were they asked next.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "kernels/cpu/lane_tokens.h"
#include "kernels/query_codebook.h"

namespace palimpsest {

// Queries of a codebook that stand at one position: all those of some query heads of a layer.
struct TypicalQueries {
  const QueryCodebook& book;
  int layer = 0;
  int first_head = 0;
  int heads = 1;
  uint32_t position = 0;
  bool hadamard = false;  // rotated as keys are, with BackendConfig::rotate_keys
};

// Of each token of a lane, how much the output of any of these queries would move without it: what
// AnticipatedScores says below. Keys and values: [tokens, head_dim].
std::vector<float> LargestRemovalErrors(const TypicalQueries& queries, absl::Span<const float> keys,
                                        absl::Span<const float> values);

// All queries of the codebook for the lane's query heads are turned to the position of the token
// that comes next (then rotated as the keys are, where these are) and rounded to bf16, as the
// queries are that a backend gets. Each attends to all live tokens in the class's pages, the pinned
// prompt too: so what the prompt takes nobody else gets.
//
// A token's score is its largest removal error: how far the output of any of the queries would move
// if the token were not there. With its probability p and the output o that is, exactly,
//
//   p / (1 - p) * |v - o|       (the divisor no less than 0.001)
//
// `tokens` are all live ones of a range of positions.
std::vector<float> AnticipatedScores(const ClassLane& lane, const LaneTokens& tokens);

}  // namespace palimpsest
