// SPDX-License-Identifier: Apache-2.0
// Writes the tables of uneven_table.h.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cuda/uneven_table.h"

namespace palimpsest::cuda {

// How many rounds its lanes have blocks of.
uint32_t RoundsUsed(const UnevenLanes& uneven);
// UnevenTable::Size(lanes, RoundsUsed(uneven)) numbers. `ranks`: of all lanes.
void WriteUnevenTable(const UnevenLanes& uneven, absl::Span<const uint32_t> ranks, uint32_t* to);
// `to`: LaneKeep::kNumbers for each lane.
void WriteLaneKeeps(const AnnealOrder& order, absl::Span<uint32_t> to);

}  // namespace palimpsest::cuda
