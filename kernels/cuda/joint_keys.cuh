// SPDX-License-Identifier: Apache-2.0
// Joint score, first and second launch: tokens in order of position, their keys into books, with
// their norms and the sum of the normalised ones.
#pragma once

#include "kernels/cuda/gather_keys.cuh"
#include "kernels/cuda/joint_launch.cuh"
#include "kernels/cuda/launch_order.cuh"
#include "kernels/cuda/position_ranks.cuh"

namespace palimpsest::cuda::anneal {

inline constexpr uint32_t kOrderThreads = 256;
inline constexpr uint32_t kJointGatherThreads = 256;
inline constexpr float kNormFloor = 1e-8f;

// A CTA a lane.
__global__ void __launch_bounds__(kOrderThreads)
    OrderTokensKernel(const __grid_constant__ JointLaunch launch) {
  using Ranks = PositionRanks<kOrderThreads>;
  __shared__ Ranks::Storage storage;
  AllowSuccessor();
  WaitForPredecessor();
  const ScoredLane lane(launch.lanes, blockIdx.x);
  uint32_t* slots = launch.slots + size_t{blockIdx.x} * launch.rows;
  Ranks ranks(&storage);
  uint32_t tokens = 0;
  for (uint32_t begin = lane.task.first_position; begin != Ranks::kNone; begin = ranks.next()) {
    ranks.Begin(begin);
    lane.ForEachToken([&](uint32_t, const PageLane&, uint32_t p) { ranks.Add(p); });
    const uint32_t count = ranks.Count();
    lane.ForEachToken([&](uint32_t i, const PageLane&, uint32_t p) {
      if (ranks.Covers(p)) slots[tokens + ranks.Rank(p)] = i;
    });
    tokens += count;
  }
  if (threadIdx.x == 0) launch.counts[blockIdx.x] = tokens > lane.task.keep ? tokens : 0;
}

// Grid: (groups of kTileRows rows, lanes).
template <int kDim>
__global__ void __launch_bounds__(kJointGatherThreads)
    GatherKeysKernel(const __grid_constant__ JointLaunch launch) {
  constexpr uint32_t kThreads = kRowThreads<kDim>;
  constexpr uint32_t kAtOnce = kJointGatherThreads / kThreads;
  __shared__ float sums[kAtOnce][kDim];
  AllowSuccessor();
  WaitForPredecessor();
  const ScoredLane lane(launch.lanes, blockIdx.y);
  const uint32_t count = launch.counts[blockIdx.y], first = blockIdx.x * kTileRows;
  if (first >= count) return;
  const size_t base = size_t{blockIdx.y} * launch.rows;
  const uint32_t group = threadIdx.x / kThreads, channel = threadIdx.x % kThreads * 8;
  const uint32_t mask = ((1u << kThreads) - 1) << (threadIdx.x % 32 / kThreads * kThreads);
  const Format format = lane.format().k;
  uint8_t* book = launch.keys + blockIdx.y * BookBytes(launch.rows, kDim);
  float sum[16] = {};
  for (uint32_t row = first + group; row < first + kTileRows; row += kAtOnce) {
    float x[16] = {};
    if (row < count) {
      const uint32_t slot = launch.slots[base + row];
      const PageLane page = lane.block(slot / kSlotsPerPage);
      LoadRow<kDim>(format, page.k_data(), page.k_scales(), slot % kSlotsPerPage, channel, x);
    }
    StoreRow<kDim>(x, row, channel, book);
    const float square = SumOfSquares<kDim>(x, mask);
    const float inverse = row < count ? 1.0f / (sqrtf(square) + kNormFloor) : 0.0f;
    if (channel == 0) launch.inverse_norms[base + row] = inverse;
#pragma unroll
    for (int i = 0; i < 16; ++i) sum[i] = fmaf(x[i], inverse, sum[i]);
  }
#pragma unroll
  for (int i = 0; i < 16; ++i) sums[group][channel + i % 8 + i / 8 * (kDim / 2)] = sum[i];
  __syncthreads();
  if (threadIdx.x >= kDim) return;
  float total = 0.0f;
  for (uint32_t g = 0; g < kAtOnce; ++g) total += sums[g][threadIdx.x];
  launch.sums[(base / kTileRows + blockIdx.x) * kDim + threadIdx.x] = total;
}

}  // namespace palimpsest::cuda::anneal
