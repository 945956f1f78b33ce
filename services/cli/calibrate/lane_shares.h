// SPDX-License-Identifier: Apache-2.0
// How lanes (a layer's KV heads) share a chain's budget, from what each would lose. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace palimpsest::cli {

// After so many tokens of a text one looks at what lanes would lose.
inline constexpr uint32_t kLookTokens = 1024;
// Tokens of a lane, without the prompt, that would stay then: the best. One number for all
// budgets, since shares measured at one were as good at others (docs/anticipate.md).
inline constexpr uint32_t kRankedTokens = 192;
// What of an even share every lane gets, whatever it loses.
inline constexpr double kShareFloor = 0.25;

// What a lane loses at a look if only the best kRankedTokens of these tokens stay: the sum of the
// others' scores. 0 where there are no others. `scores`: of the tokens that may go.
double LostScore(std::vector<float> scores);

// From what each lane has lost, over all looks, to QueryCodebook::lane_shares: kShareFloor and the
// rest in proportion, within kLaneShareMin and kLaneShareMax, of mean 1. Empty where nothing was
// lost. REQUIRES: no loss below 0.
std::vector<float> LaneShares(absl::Span<const double> losses);

}  // namespace palimpsest::cli
