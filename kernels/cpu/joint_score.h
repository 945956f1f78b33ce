// SPDX-License-Identifier: Apache-2.0
// R-KV's score of a token (arXiv 2505.24133, section 3): attention that the newest queries give it,
// against its likeness to other tokens.
#pragma once

#include <vector>

#include "kernels/cpu/lane_tokens.h"

namespace palimpsest {

// As the authors' code computes it, where it differs from their paper, without its bugs (one
// sequence's keys for all, column 0 where nothing is similar, survivors out of order):
//
//   importance  of all but the `recent` newest tokens, the candidates: for each of the newest
//               queries the softmax over candidates of the largest logit among the group's heads;
//               the mean over queries; the largest within three candidates to either side.
//   redundancy  of all tokens: S[i][j], the cosine of keys i and j, 0 for i = j. In each row i the
//               newest j with S[i][j] > 0.5 is forgiven (0): so it is the newest of a family of
//               duplicates that looks needed. The mean of each column, softmax over columns.
//   score       0.1 importance - 0.9 redundancy
//
// One score a token of `tokens`; 0 for the recent ones. REQUIRES: recent < tokens.size().
std::vector<float> JointScores(const ClassLane& lane, const LaneTokens& tokens, uint32_t recent);

}  // namespace palimpsest
