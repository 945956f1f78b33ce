// SPDX-License-Identifier: Apache-2.0
// A CTA a lane. Bytes of a lane: positions and masks of its class (66 a page) and its scores, once;
// the rest happens in shared memory.
#include "kernels/cuda/anneal_select.cuh"
#include "kernels/cuda/anneal_select_launch.h"
#include "kernels/cuda/launch_order.cuh"

namespace palimpsest::cuda::anneal {
namespace {

constexpr uint32_t kCachedSlotsMax = 8192;  // 64 KiB of keys: three CTAs a multiprocessor

// CTAs on a multiprocessor: as many as registers leave room for without uneven sequences.
template <bool kCached>
__global__ void __launch_bounds__(kSelectThreads, kCached ? 4 : 3)
    SelectKernel(const __grid_constant__ SelectLaunch launch) {
  extern __shared__ uint64_t keys[];
  __shared__ SelectMemory memory;
  const ScoredLane lane(launch.lanes, blockIdx.x);
  WaitForPredecessor();
  const float* computed =
      launch.scores == nullptr ? nullptr : launch.scores + size_t{blockIdx.x} * launch.slots_max;
  const Scores scores{lane, computed};
  if constexpr (kCached) {
    KeepBest(lane, CachedKeys(scores, keys), &memory);
  } else {
    KeepBest(lane, ComputedKeys(scores), &memory);
  }
}

SelectLaunch SelectionOf(const AnnealParams& params, const AnnealTask* tasks, uint32_t count) {
  SelectLaunch launch{.lanes = ScoredLanes(params, tasks, count)};
  launch.slots_max = SlotsMax(tasks, count);
  return launch;
}

}  // namespace

cudaError_t LaunchSelectKernel(const SelectLaunch& launch, cudaStream_t stream) {
  const uint32_t lanes = launch.lanes.lane_count;
  if (launch.slots_max > kCachedSlotsMax) {
    return LaunchEarly(SelectKernel<false>, lanes, kSelectThreads, 0, launch, stream);
  }
  return LaunchLarge(SelectKernel<true>, lanes, kSelectThreads, launch.slots_max * sizeof(uint64_t),
                     launch, stream);
}

cudaError_t UseScores(const SelectLaunch& launch, float* scores, cudaStream_t stream) {
  if (scores == nullptr) return LaunchSelectKernel(launch, stream);
  const size_t width = launch.lanes.tasks[0].block_count * kSlotsPerPage * sizeof(float);
  return cudaMemcpy2DAsync(scores + launch.lanes.first_lane * (width / sizeof(float)), width,
                           launch.scores, launch.slots_max * sizeof(float), width,
                           launch.lanes.lane_count, cudaMemcpyDeviceToDevice, stream);
}

cudaError_t LaunchSelect(const AnnealParams& params, const AnnealTask* tasks, uint32_t count,
                         cudaStream_t stream) {
  return LaunchSelectKernel(SelectionOf(params, tasks, count), stream);
}

}  // namespace palimpsest::cuda::anneal

namespace palimpsest::cuda {

cudaError_t LaunchKeepByScore(const AnnealParams& params, const AnnealTask& task,
                              const float* scores, cudaStream_t stream) {
  anneal::SelectLaunch launch = anneal::SelectionOf(params, &task, 1);
  launch.scores = scores;
  launch.lanes.by_rank = nullptr;  // scores lie in the order of lanes
  // A task that says kMostRecent means its scores all the same.
  launch.lanes.tasks[0].selector = Selector::kAnticipated;
  return anneal::LaunchSelectKernel(launch, stream);
}

}  // namespace palimpsest::cuda
