// SPDX-License-Identifier: Apache-2.0
// The CPU backend: the reference every other one is held to, and what runs where there is no GPU.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "common/base/task_team.h"
#include "kernels/backend.h"

namespace palimpsest {

// Allocates the pool and the open groups, zeroed. Activations are float. Every call is done when it
// returns, checks its arguments before it changes anything, and gives the same bits for any number
// of threads.
//
// Beyond the contract of backend.h: a NaN in k or v and a non-finite q are InvalidArgument (nothing
// changed); infinities in k and v saturate. Overlapping pages are found by Seal and Anneal only,
// because looking for them at every layer would cost more than it tells. Single-threaded use.
//
// InvalidArgument for a shape, pool size or thread count out of range, ResourceExhausted when the
// memory is not to be had.
absl::StatusOr<std::unique_ptr<Backend>> NewCpuBackend(const BackendConfig& config,
                                                       std::shared_ptr<TaskTeam> team);
// The same with a team of its own.
absl::StatusOr<std::unique_ptr<Backend>> NewCpuBackend(const BackendConfig& config, int threads);

}  // namespace palimpsest
