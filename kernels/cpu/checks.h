// SPDX-License-Identifier: Apache-2.0
// What a wrong caller could pass, refused before a byte is changed. All return InvalidArgument.
#pragma once

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cpu/pool_memory.h"

namespace palimpsest {

// Every dimension positive, head_dim a multiple of 16 and at most kMaxHeadDim, query_heads a
// multiple of kv_heads, rows_max 1..65536; the pool's size must not overflow.
absl::Status CheckConfig(const BackendConfig& config);

// Formats known, pages aligned and inside the pool, open group and open_count in range.
absl::Status CheckSequences(const PoolMemory& memory, absl::Span<const SequenceView> sequences);

// Rows name existing sequences, each at most once, with 1..16 rows that fit in the open group and
// overlap no other sequence's, and lie below rows_max; no two of them share an open group.
absl::Status CheckRows(const PoolMemory& memory, absl::Span<const SequenceView> sequences,
                       absl::Span<const StepRows> rows);

absl::Status CheckLayer(const PoolMemory& memory, int layer);

// q as Attend needs it: not null and finite; a finite scale.
absl::Status CheckQueries(const PoolMemory& memory, absl::Span<const StepRows> rows,
                          const LayerActivations& io);
// k and v as Append needs them: not null, without NaN.
absl::Status CheckKeysAndValues(const PoolMemory& memory, absl::Span<const StepRows> rows,
                                const LayerActivations& io);

// `bytes` bytes at `offset` lie inside the pool.
absl::Status CheckRange(const PoolMemory& memory, PageOffset offset, uint64_t bytes);

// No page of these sequences overlaps another: what must hold before pages are written.
absl::Status CheckPagesDisjoint(const PoolMemory& memory,
                                absl::Span<const SequenceView* const> sequences);

}  // namespace palimpsest
