// SPDX-License-Identifier: Apache-2.0
// How tokens enter: into the open group as bf16, and from there, quantised, into pages.
#pragma once

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/base/task_team.h"
#include "kernels/backend.h"
#include "kernels/cpu/pool_memory.h"

namespace palimpsest {

// Writes the rows' K (rotated, where the configuration says so, as then are queries, in place) and
// V behind each sequence's open tokens, with scores of 0. Infinities saturate.
// REQUIRES: arguments checked (checks.h).
void Append(const PoolMemory& memory, int layer, absl::Span<const SequenceView> sequences,
            absl::Span<const StepRows> rows, const NewTokens& tokens);

// Quantises each ordered open group into the dead slots of its class's pages, in block-table and
// slot order; sets positions, live bits and what the sequence's slots carry (its slot_score);
// touches no other byte. FailedPrecondition, with nothing changed, when a lane has fewer dead slots
// than there are tokens.
// REQUIRES: arguments checked; orders name different sequences.
absl::Status Seal(const PoolMemory& memory, absl::Span<const SequenceView> sequences,
                  absl::Span<const SealOrder> orders, TaskTeam& team);

}  // namespace palimpsest
