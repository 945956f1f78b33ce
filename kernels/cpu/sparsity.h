// SPDX-License-Identifier: Apache-2.0
// Attention sparsity, ThinKV's statistic (appendix C.2), over live slots and the open group.
#pragma once

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/base/task_team.h"
#include "kernels/backend.h"
#include "kernels/cpu/pool_memory.h"

namespace palimpsest {

// Writes the sparsity of the last row of rows[i] to sparsity[i]. Internal when two KV heads of a
// sequence have different numbers of live tokens: checks leave even sequences only.
// REQUIRES: arguments checked (checks.h); sparsity.size() == rows.size().
absl::Status MeasureSparsity(const PoolMemory& memory, int layer,
                             absl::Span<const SequenceView> sequences,
                             absl::Span<const StepRows> rows, const LayerActivations& io,
                             TaskTeam& team, absl::Span<float> sparsity);

}  // namespace palimpsest
