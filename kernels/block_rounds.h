// SPDX-License-Identifier: Apache-2.0
// For who owns uneven sequences (uneven_lanes.h): the rounds in which their blocks are dealt.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace palimpsest {

// UnevenLanes::round_first where lane l may have capacities[l] blocks behind the even pages.
// REQUIRES: lanes; none of a smaller share has more.
std::vector<uint32_t> RoundsOf(absl::Span<const uint32_t> capacities);

}  // namespace palimpsest
