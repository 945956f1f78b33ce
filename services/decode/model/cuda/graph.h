// SPDX-License-Identifier: Apache-2.0
// CUDA graphs as C++ owns things.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace palimpsest::cuda {

struct GraphFree {
  void operator()(cudaGraphExec_t graph) const { (void)cudaGraphExecDestroy(graph); }
};
using Graph = std::unique_ptr<CUgraphExec_st, GraphFree>;

// What `enqueue` puts into `stream`, not run but made ready to be launched: its device memory is
// allocated here, and launching it allocates nothing. The status of `enqueue`, or CUDA's.
absl::StatusOr<Graph> CaptureGraph(cudaStream_t stream, absl::FunctionRef<absl::Status()> enqueue);

// Microseconds the launches in `graph` take on the device: the best of `tries` runs. Waits.
absl::StatusOr<float> TimeGraph(const Graph& graph, int tries, cudaStream_t stream);

}  // namespace palimpsest::cuda
