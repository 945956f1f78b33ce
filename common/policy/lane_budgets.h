// SPDX-License-Identifier: Apache-2.0
// How a budget of every lane on average is shared out to lanes that do not need the same.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace palimpsest {

// Of what every lane has on average, this much each has in any case: the tokens that selections
// keep because they are new.
inline constexpr uint32_t kLaneBudgetMin = 16;
// Lanes differ by multiples of this, the slots of a page's block: so a lane that has its budget and
// a window leaves no more of its last block empty than all do that have the mean, and the lanes
// together fill as many pages.
inline constexpr uint32_t kLaneBudgetStep = 16;

// What each lane keeps: [shares.size()], in all shares.size() x mean. Each first gets what the mean
// has beyond whole steps, and kLaneBudgetMin, or the mean if that is less; the rest goes by shares,
// whole steps by largest remainders (of equal ones the first). A lane of a larger share, or of an
// equal one and further to the front, never keeps less. REQUIRES: positive shares, whose mean is 1
// but for rounding.
std::vector<uint32_t> LaneBudgets(absl::Span<const float> shares, uint32_t mean);

}  // namespace palimpsest
