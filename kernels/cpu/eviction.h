// SPDX-License-Identifier: Apache-2.0
// LongFlow's eviction (arXiv 2603.11504): a token a step and layer, by the present row's attention.
#pragma once

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cpu/attention_mass.h"
#include "kernels/cpu/pool_memory.h"

namespace palimpsest {

// FailedPrecondition where a sequence shall evict and has nothing to, or its KV heads hold
// different tokens in this layer.
absl::Status CheckEvictions(const PoolMemory& memory, int layer,
                            absl::Span<const SequenceView> sequences,
                            absl::Span<const StepRows> rows);

// Clears the live bit, in every KV head, of the token at view.evict_from or later whose probability
// x L1 norm of V, summed over all query heads, is least; of equal ones the earliest.
// `heads` are all KV heads of a layer. REQUIRES: CheckEvictions.
void EvictLeastValued(absl::Span<const AttendedLane> heads);

}  // namespace palimpsest
