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
// k and v as Append needs them: not null, without NaN; finite keys where they are rotated.
absl::Status CheckKeysAndValues(const PoolMemory& memory, absl::Span<const StepRows> rows,
                                const LayerActivations& io);

}  // namespace palimpsest
