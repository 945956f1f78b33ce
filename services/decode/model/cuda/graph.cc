// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/cuda/graph.h"

#include <algorithm>
#include <limits>

#include "common/base/status_macros.h"
#include "kernels/cuda/device_memory.h"

namespace palimpsest::cuda {
namespace {

struct TemplateFree {
  void operator()(cudaGraph_t graph) const { (void)cudaGraphDestroy(graph); }
};
using GraphTemplate = std::unique_ptr<CUgraph_st, TemplateFree>;

absl::StatusOr<Event> NewTimingEvent() {
  cudaEvent_t event = nullptr;
  KV_RETURN_IF_ERROR(ToStatus(cudaEventCreate(&event), "an event with a clock"));
  return Event(event);
}

}  // namespace

absl::StatusOr<Graph> CaptureGraph(cudaStream_t stream, absl::FunctionRef<absl::Status()> enqueue) {
  KV_RETURN_IF_ERROR(
      ToStatus(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin capture"));
  const absl::Status enqueued = enqueue();
  cudaGraph_t captured = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream, &captured);  // ends it after errors too
  const GraphTemplate graph(captured);
  KV_RETURN_IF_ERROR(enqueued);
  KV_RETURN_IF_ERROR(ToStatus(ended, "end capture"));
  cudaGraphExec_t exec = nullptr;
  KV_RETURN_IF_ERROR(ToStatus(cudaGraphInstantiate(&exec, graph.get(), 0), "instantiate a graph"));
  Graph ready(exec);
  KV_RETURN_IF_ERROR(ToStatus(cudaGraphUpload(exec, stream), "upload a graph"));
  return ready;
}

absl::StatusOr<float> TimeGraph(const Graph& graph, int tries, cudaStream_t stream) {
  KV_ASSIGN_OR_RETURN(const Event begin, NewTimingEvent());
  KV_ASSIGN_OR_RETURN(const Event end, NewTimingEvent());
  float best_ms = std::numeric_limits<float>::infinity();
  for (int i = 0; i < tries; ++i) {
    KV_RETURN_IF_ERROR(ToStatus(cudaEventRecord(begin.get(), stream), "time a graph"));
    KV_RETURN_IF_ERROR(ToStatus(cudaGraphLaunch(graph.get(), stream), "launch a graph"));
    KV_RETURN_IF_ERROR(ToStatus(cudaEventRecord(end.get(), stream), "time a graph"));
    KV_RETURN_IF_ERROR(ToStatus(cudaEventSynchronize(end.get()), "run a graph"));
    float ms = 0.0f;
    KV_RETURN_IF_ERROR(ToStatus(cudaEventElapsedTime(&ms, begin.get(), end.get()), "time a graph"));
    best_ms = std::min(best_ms, ms);
  }
  return best_ms * 1000.0f;
}

}  // namespace palimpsest::cuda
