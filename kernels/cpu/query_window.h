// SPDX-License-Identifier: Apache-2.0
// The newest queries of a sequence, which R-KV's selector asks what they attend to. Kept in a ring
// by position, so that nothing needs to be counted: of a sequence of n tokens, whose queries all
// passed through here, the rows of positions n - W to n - 1 are there.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cpu/lane_tokens.h"
#include "kernels/cpu/pool_memory.h"

namespace palimpsest {

// Stores the rows' queries (rotated already, where keys are) as bf16, for sequences that keep them.
// REQUIRES: arguments checked (checks.h).
void KeepQueries(const PoolMemory& memory, int layer, absl::Span<const SequenceView> sequences,
                 absl::Span<const StepRows> rows, const NewTokens& tokens);

// Queries kept of the sequence so far.
uint32_t QueriesKept(const PoolMemory& memory, const SequenceView& view);

// Those of the lane's group: [QueriesKept][group heads][head_dim], oldest first.
std::vector<float> NewestQueries(const ClassLane& lane);

}  // namespace palimpsest
