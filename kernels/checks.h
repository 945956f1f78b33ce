// SPDX-License-Identifier: Apache-2.0
// What a wrong caller could pass, refused before a byte is changed, by every backend alike. All
// return InvalidArgument. What can be said of activations depends on where they are, so that is
// each backend's own.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/pool_layout.h"

namespace palimpsest {

// Every dimension positive, head_dim a multiple of 16 and at most kMaxHeadDim (a power of two where
// keys are rotated), query_heads a multiple of kv_heads, rows_max 1..65536; the pool's size must
// not overflow; a codebook is of the model's shape, and its shares of lanes, if any, are finite, in
// kLaneShareMin..kLaneShareMax and 1 on average.
absl::Status CheckConfig(const BackendConfig& config);

// Formats known, pages aligned and inside the pool, open group and open_count in range; of uneven
// sequences all that uneven_lanes.h and SequenceView::uneven say of them.
absl::Status CheckSequences(const PoolLayout& pool, absl::Span<const SequenceView> sequences);

// Rows name existing sequences, each at most once, with 1..16 rows that fit in the open group and
// overlap no other sequence's, and lie below rows_max; no two of them share an open group.
absl::Status CheckRows(const PoolLayout& pool, absl::Span<const SequenceView> sequences,
                       absl::Span<const StepRows> rows);

absl::Status CheckLayer(const PoolLayout& pool, int layer);

// Whether Append has to do with queries in a step of these sequences: NewTokens::q is wanted then.
bool AppendTakesQueries(const BackendConfig& config, absl::Span<const SequenceView> sequences);

// Of each of a step's StepRows, whether its sequence is uneven. REQUIRES: CheckRows.
std::vector<bool> UnevenRows(absl::Span<const SequenceView> sequences,
                             absl::Span<const StepRows> rows);

// `wanted` indexes the step's rows, of which none is of an uneven sequence (its heads have no j-th
// keys to average), and there is room for as many results. `uneven`: the step's UnevenRows.
absl::Status CheckWanted(absl::Span<const uint32_t> wanted, const std::vector<bool>& uneven,
                         size_t results);

// Views as above, orders that name one of them and a class, no sequence sealed twice, and no
// overlap between the pages of the sequences named.
absl::Status CheckSeal(const PoolLayout& pool, absl::Span<const SequenceView> sequences,
                       absl::Span<const SealOrder> orders);
// The same; several segments of one sequence are fine. Selectors that the backend was configured
// for (else FailedPrecondition), segments forwards. Of uneven sequences only selectors by which
// every lane chooses for itself, and what each lane keeps said of all or of none.
absl::Status CheckAnneal(const PoolLayout& pool, absl::Span<const SequenceView> sequences,
                         absl::Span<const AnnealOrder> orders);

// `bytes` bytes at `offset` lie inside the pool.
absl::Status CheckRange(const PoolLayout& pool, PageOffset offset, uint64_t bytes);
absl::Status CheckOpenGroup(const PoolLayout& pool, uint32_t open_group);

}  // namespace palimpsest
