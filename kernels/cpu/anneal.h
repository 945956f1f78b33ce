// SPDX-License-Identifier: Apache-2.0
// Fewer live tokens in a segment: picks survivors per layer and clears the others' live bits.
#pragma once

#include "absl/types/span.h"
#include "common/base/task_team.h"
#include "kernels/backend.h"
#include "kernels/cpu/pool_memory.h"

namespace palimpsest {

// Executes the orders one after another. K-means sees the keys as stored (de-quantised, after
// RoPE), all KV heads of a layer side by side where they hold the same tokens, else head by head.
// REQUIRES: arguments checked (checks.h).
void Anneal(const PoolMemory& memory, absl::Span<const SequenceView> sequences,
            absl::Span<const AnnealOrder> orders, TaskTeam& team);

}  // namespace palimpsest
