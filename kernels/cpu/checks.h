// SPDX-License-Identifier: Apache-2.0
// What kernels/checks.h leaves to each backend: activations, here floats in host memory.
#pragma once

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cpu/pool_memory.h"

namespace palimpsest {

// q as Attend needs it: not null and finite; a finite scale.
absl::Status CheckQueries(const PoolMemory& memory, absl::Span<const StepRows> rows,
                          const LayerActivations& io);
// What Append needs: k and v not null, without NaN, and finite keys where they are rotated; where
// it has to do with q, finite ones.
absl::Status CheckNewTokens(const PoolMemory& memory, absl::Span<const SequenceView> sequences,
                            absl::Span<const StepRows> rows, const NewTokens& tokens);

}  // namespace palimpsest
