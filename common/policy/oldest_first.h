// SPDX-License-Identifier: Apache-2.0
// Evicting from the oldest segments: what policies share that keep a number of tokens and leave it
// to selectors, or to their order, which.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "common/policy/sequence_state.h"

namespace palimpsest {

// The anneals that lower `segments` by `excess` live tokens, or by all that are not pinned: the
// oldest give first.
std::vector<Anneal> TakeFromOldest(absl::Span<const Segment> segments, uint32_t excess);

}  // namespace palimpsest
