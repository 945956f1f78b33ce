// SPDX-License-Identifier: Apache-2.0
// What a codebook of typical queries (kernels/query_codebook.h) would miss, were they asked next.
#pragma once

#include <vector>

#include "kernels/cpu/lane_tokens.h"

namespace palimpsest {

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
