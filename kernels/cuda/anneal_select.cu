// SPDX-License-Identifier: Apache-2.0
// A CTA a lane. Bytes of a lane: positions and masks of its class (66 a page) and its scores, once;
// the rest happens in shared memory.
#include "kernels/cuda/anneal_select.cuh"
#include "kernels/cuda/anneal_select_launch.h"
#include "kernels/cuda/launch_order.cuh"

namespace palimpsest::cuda::anneal {
namespace {

constexpr uint32_t kCachedSlotsMax = 8192;  // 64 KiB of keys: three CTAs a multiprocessor

template <bool kCached>
__global__ void __launch_bounds__(kSelectThreads)
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

template <bool kCached>
cudaError_t Launch(const SelectLaunch& launch, uint32_t shared_bytes, cudaStream_t stream) {
  const cudaError_t error =
      cudaFuncSetAttribute(SelectKernel<kCached>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(shared_bytes));
  if (error != cudaSuccess) return error;
  return LaunchEarly(SelectKernel<kCached>, launch.lanes.lane_count, kSelectThreads, shared_bytes,
                     launch, stream);
}

SelectLaunch SelectionOf(const AnnealParams& params, const AnnealTask* tasks, uint32_t count) {
  SelectLaunch launch{.lanes = ScoredLanes(params, tasks, count)};
  for (uint32_t i = 0; i < count; ++i) {
    launch.slots_max = std::max(launch.slots_max, tasks[i].page_count * kSlotsPerPage);
  }
  return launch;
}

}  // namespace

cudaError_t LaunchSelectKernel(const SelectLaunch& launch, cudaStream_t stream) {
  if (launch.slots_max > kCachedSlotsMax) return Launch<false>(launch, 0, stream);
  return Launch<true>(launch, launch.slots_max * static_cast<uint32_t>(sizeof(uint64_t)), stream);
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
  // A task that says kMostRecent means its scores all the same.
  launch.lanes.tasks[0].selector = Selector::kAnticipated;
  return anneal::LaunchSelectKernel(launch, stream);
}

}  // namespace palimpsest::cuda
