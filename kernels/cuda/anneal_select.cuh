// SPDX-License-Identifier: Apache-2.0
// Keeps the tokens of a lane with the lowest keys: the newest, or those of the highest scores. Keys
// are distinct, because they contain the position. A radix select, 8 bits at a time; no sort.
#pragma once

#include "kernels/cuda/anneal_launch.cuh"

namespace palimpsest::cuda::anneal {

inline constexpr uint32_t kSelectThreads = 256;

// The newest tokens have the lowest keys.
struct NewestFirst {
  static constexpr int kBits = 32;
  __device__ uint64_t operator()(uint32_t, uint32_t position) const { return ~position; }
};

// The highest score has the lowest key; of equal scores the lower position.
struct HighestFirst {
  static constexpr int kBits = 64;
  const float* scores = nullptr;  // of the lane, a slot each

  __device__ uint64_t operator()(uint32_t slot_index, uint32_t position) const {
    const uint32_t bits = __float_as_uint(scores[slot_index] + 0.0f);  // -0 counts as 0
    const uint32_t ascending = bits >> 31 ? ~bits : bits | 0x80000000u;
    return static_cast<uint64_t>(~ascending) << 32 | position;
  }
};

// Which of 256 counts the `wanted`-th thing falls into (from 1), and how many come before it there.
// For whole warps.
struct BinRank {
  uint32_t bin = 0;
  uint32_t wanted = 0;
};
__device__ inline BinRank FindBin(const uint32_t* counts, uint32_t wanted) {
  const uint32_t lane = threadIdx.x % 32;
  uint32_t own = 0;
  for (uint32_t i = 0; i < 8; ++i) own += counts[8 * lane + i];
  uint32_t sum = own;
  for (uint32_t d = 1; d < 32; d *= 2) {
    const uint32_t other = __shfl_up_sync(~0u, sum, d);
    if (lane >= d) sum += other;
  }
  const uint32_t owner = __ffs(__ballot_sync(~0u, sum >= wanted)) - 1;
  BinRank at{.bin = 8 * lane, .wanted = wanted - (sum - own)};
  while (lane == owner && at.wanted > counts[at.bin]) at.wanted -= counts[at.bin++];
  return {.bin = __shfl_sync(~0u, at.bin, owner), .wanted = __shfl_sync(~0u, at.wanted, owner)};
}

// For a whole CTA.
template <typename KeyOf>
__device__ void KeepLowestKeys(const Problem& problem, uint32_t kv_head, const KeyOf& key_of) {
  __shared__ uint32_t counts[256];
  __shared__ BinRank found;
  uint32_t own = 0;
  problem.ForEachToken(kv_head, [&](uint32_t, const PageLane&, uint32_t) { ++own; });
  if (threadIdx.x == 0) counts[0] = 0;
  __syncthreads();
  atomicAdd(&counts[0], own);
  __syncthreads();
  const uint32_t keep = problem.task.keep;
  if (counts[0] <= keep) return;

  uint64_t last = 0;  // the highest key kept, from the top down
  uint32_t wanted = keep;
  for (int shift = KeyOf::kBits - 8; shift >= 0 && keep > 0; shift -= 8) {
    __syncthreads();
    counts[threadIdx.x] = 0;
    __syncthreads();
    problem.ForEachToken(kv_head, [&](uint32_t i, const PageLane&, uint32_t position) {
      const uint64_t key = key_of(i, position);
      // Two shifts, because one by 64 is none.
      if (key >> shift >> 8 == last >> shift >> 8) atomicAdd(&counts[key >> shift & 255], 1);
    });
    __syncthreads();
    if (threadIdx.x < 32) {
      const BinRank at = FindBin(counts, wanted);
      if (threadIdx.x == 0) found = at;
    }
    __syncthreads();
    last |= static_cast<uint64_t>(found.bin) << shift;
    wanted = found.wanted;
  }
  problem.ForEachToken(kv_head, [&](uint32_t i, const PageLane& of, uint32_t position) {
    if (keep == 0 || key_of(i, position) > last) of.ClearLive(i % kSlotsPerPage);
  });
}

// Grid: (KV heads, problems).
__global__ void __launch_bounds__(kSelectThreads)
    KeepNewestKernel(const __grid_constant__ AnnealLaunch launch) {
  KeepLowestKeys(Problem(launch, blockIdx.y), blockIdx.x, NewestFirst{});
}

__global__ void __launch_bounds__(kSelectThreads)
    KeepByScoreKernel(const __grid_constant__ AnnealLaunch launch, const float* scores) {
  const Problem problem(launch, blockIdx.y);
  const size_t slots = size_t{problem.task.page_count} * kSlotsPerPage;
  KeepLowestKeys(problem, blockIdx.x, HighestFirst{scores + problem.lane(blockIdx.x) * slots});
}

}  // namespace palimpsest::cuda::anneal
