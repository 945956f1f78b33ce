// SPDX-License-Identifier: Apache-2.0
// The part of checks.h that is about uneven sequences (uneven_lanes.h). All return InvalidArgument.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/pool_layout.h"

namespace palimpsest {

// An uneven sequence is what uneven_lanes.h and SequenceView::uneven say. `counts`: scratch, kept
// from one sequence to the next. Done every step for every sequence, so no more than O(lanes +
// rounds).
absl::Status CheckUneven(const PoolLayout& pool, const SequenceView& view,
                         std::vector<uint32_t>* counts);

// An order has lane_keeps for all lanes or for none, and some for uneven sequences alone; these
// have selectors by which every lane chooses for itself.
absl::Status CheckLaneKeeps(const PoolLayout& pool, const SequenceView& view,
                            const AnnealOrder& order);

}  // namespace palimpsest
