// SPDX-License-Identifier: Apache-2.0
// What each live token of a segment is worth in one lane, by the order's selector.
#pragma once

#include <vector>

#include "kernels/cpu/lane_tokens.h"

namespace palimpsest {

// One score for each of the segment's live `tokens`, higher is better. Those of the `recent`
// newest, which stay anyway, may be anything.
// REQUIRES: the backend was configured for the order's selector, and the sequence has what it needs
// (checks.h); recent < tokens.size().
std::vector<float> ScoreTokens(const ClassLane& lane, const LaneTokens& tokens, Selector selector,
                               uint32_t recent);

}  // namespace palimpsest
