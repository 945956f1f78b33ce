// SPDX-License-Identifier: Apache-2.0
#include "bench/gpu/graph_timer.h"

#include <algorithm>
#include <memory>
#include <type_traits>
#include <vector>

#include "common/base/status_macros.h"
#include "kernels/cuda/device_memory.h"

namespace palimpsest::bench {
namespace {

using cuda::Event;
using cuda::ToStatus;

struct GraphFree {
  void operator()(cudaGraph_t graph) const { (void)cudaGraphDestroy(graph); }
};
struct GraphExecFree {
  void operator()(cudaGraphExec_t graph) const { (void)cudaGraphExecDestroy(graph); }
};
using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, GraphFree>;
using GraphExec = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, GraphExecFree>;

absl::StatusOr<GraphExec> Capture(cudaStream_t stream, absl::FunctionRef<absl::Status()> enqueue) {
  KV_RETURN_IF_ERROR(ToStatus(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
                              "beginning a capture"));
  const absl::Status enqueued = enqueue();
  cudaGraph_t captured = nullptr;
  const absl::Status ended = ToStatus(cudaStreamEndCapture(stream, &captured), "ending a capture");
  const Graph graph(captured);
  KV_RETURN_IF_ERROR(enqueued);
  KV_RETURN_IF_ERROR(ended);
  cudaGraphExec_t exec = nullptr;
  KV_RETURN_IF_ERROR(ToStatus(cudaGraphInstantiate(&exec, captured, 0), "instantiating a graph"));
  return GraphExec(exec);
}

absl::StatusOr<Event> NewTimedEvent() {
  cudaEvent_t event = nullptr;
  KV_RETURN_IF_ERROR(ToStatus(cudaEventCreate(&event), "making an event"));
  return Event(event);
}

}  // namespace

absl::StatusOr<double> MedianSeconds(cudaStream_t stream, double budget_s,
                                     absl::FunctionRef<absl::Status()> run) {
  return MedianSeconds(
      stream, budget_s, [] { return absl::OkStatus(); }, run);
}

absl::StatusOr<double> MedianSeconds(cudaStream_t stream, double budget_s,
                                     absl::FunctionRef<absl::Status()> prepare,
                                     absl::FunctionRef<absl::Status()> run) {
  constexpr size_t kRunsMin = 10, kRunsMax = 200;
  KV_ASSIGN_OR_RETURN(const Event begin, NewTimedEvent());
  KV_ASSIGN_OR_RETURN(const Event end, NewTimedEvent());
  for (int i = 0; i < 3; ++i) {
    KV_RETURN_IF_ERROR(prepare());
    KV_RETURN_IF_ERROR(run());
  }

  std::vector<double> seconds;
  double total = 0;
  while (seconds.size() < kRunsMin || (seconds.size() < kRunsMax && total < budget_s)) {
    KV_RETURN_IF_ERROR(prepare());
    KV_RETURN_IF_ERROR(ToStatus(cudaEventRecord(begin.get(), stream), "recording an event"));
    KV_RETURN_IF_ERROR(run());
    KV_RETURN_IF_ERROR(ToStatus(cudaEventRecord(end.get(), stream), "recording an event"));
    KV_RETURN_IF_ERROR(ToStatus(cudaEventSynchronize(end.get()), "waiting for a run"));
    float milliseconds = 0;
    KV_RETURN_IF_ERROR(
        ToStatus(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()), "reading a clock"));
    seconds.push_back(milliseconds / 1e3);
    total += seconds.back();
  }
  const auto middle = seconds.begin() + static_cast<ptrdiff_t>(seconds.size() / 2);
  std::nth_element(seconds.begin(), middle, seconds.end());
  return *middle;
}

absl::StatusOr<double> MedianGraphSeconds(cudaStream_t stream, double budget_s,
                                          absl::FunctionRef<absl::Status()> enqueue) {
  KV_ASSIGN_OR_RETURN(const GraphExec graph, Capture(stream, enqueue));
  return MedianSeconds(stream, budget_s, [&] {
    return ToStatus(cudaGraphLaunch(graph.get(), stream), "a graph's run");
  });
}

}  // namespace palimpsest::bench
