// SPDX-License-Identifier: Apache-2.0
// How long work takes on the device: by itself, or run by a CUDA graph as the engine's steps are.
#pragma once

#include <cuda_runtime_api.h>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace palimpsest::bench {

// Calls `run`, which puts work into `stream`, three times to warm up and then for about `budget_s`
// seconds (10 to 200 times). The median of the runs, in seconds.
absl::StatusOr<double> MedianSeconds(cudaStream_t stream, double budget_s,
                                     absl::FunctionRef<absl::Status()> run);

// The same, with `prepare` before each run, which does not count.
absl::StatusOr<double> MedianSeconds(cudaStream_t stream, double budget_s,
                                     absl::FunctionRef<absl::Status()> prepare,
                                     absl::FunctionRef<absl::Status()> run);

// Captures what `enqueue` puts into `stream` as one graph; the median of its replays, likewise.
absl::StatusOr<double> MedianGraphSeconds(cudaStream_t stream, double budget_s,
                                          absl::FunctionRef<absl::Status()> enqueue);

}  // namespace palimpsest::bench
