// SPDX-License-Identifier: Apache-2.0
// What evicted tokens leave behind (CacheShape::residue): their keys and values, added to the
// lane's residue. Each thread sums in the order of the slots, so that results do not depend on
// timing. Bytes of a lane: its evicted tokens' K and V, and twice its residue.
#pragma once

#include "kernels/cuda/gather_keys.cuh"
#include "kernels/cuda/scored_lanes.cuh"

namespace palimpsest::cuda::anneal {

inline constexpr uint32_t kResidueThreads = 256;  // of a CTA
inline constexpr uint32_t kResidueBlocks = 512;   // looked at at a time
// Threads that have a token: its key's kRowThreads, then its value's.
template <int kDim>
inline constexpr uint32_t kTokenThreads = 2 * kRowThreads<kDim>;

struct ResidueMemory {
  uint32_t evicted[kResidueBlocks / 2];  // a bit a slot
  float sums[kResidueThreads / 32][2 * 128];
};

// Adds this thread's channels (LoadRow) of the evicted in blocks [first_block, + kResidueBlocks).
template <int kDim>
__device__ void SumEvicted(const ScoredLane& lane, uint32_t first_block, const uint32_t* evicted,
                           float (&sum)[16]) {
  const bool of_value = threadIdx.x % kTokenThreads<kDim> >= kRowThreads<kDim>;
  const uint32_t channel = threadIdx.x % kRowThreads<kDim> * 8;
  const Format format = of_value ? lane.format().v : lane.format().k;
  const uint32_t blocks = min(lane.block_count() - first_block, kResidueBlocks);
  for (uint32_t block = threadIdx.x / kTokenThreads<kDim>; block < blocks;
       block += kResidueThreads / kTokenThreads<kDim>) {
    const PageLane of = lane.block(first_block + block);
    const uint8_t* data = of_value ? of.v_data() : of.k_data();
    const uint8_t* scales = of_value ? of.v_scales() : of.k_scales();
    for (uint32_t rest = evicted[block / 2] >> block % 2 * 16 & 0xffffu; rest != 0;
         rest &= rest - 1) {
      float x[16];
      LoadRow<kDim>(format, data, scales, __ffs(rest) - 1, channel, x);
#pragma unroll
      for (int i = 0; i < 16; ++i) sum[i] += x[i];
    }
  }
}

// Adds all threads' sums, which are of `count` tokens, to the lane's residue.
template <int kDim>
__device__ void AddToResidue(const ScoredLane& lane, uint32_t count, float (&sum)[16],
                             ResidueMemory* memory) {
  for (uint32_t step = kTokenThreads<kDim>; step < 32; step *= 2) {
#pragma unroll
    for (int i = 0; i < 16; ++i) sum[i] += __shfl_xor_sync(~0u, sum[i], step);
  }
  const uint32_t thread = threadIdx.x % 32;
  if (thread < kTokenThreads<kDim>) {
    const uint32_t channel = thread / kRowThreads<kDim> * kDim + thread % kRowThreads<kDim> * 8;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      memory->sums[threadIdx.x / 32][channel + i / 8 * (kDim / 2) + i % 8] = sum[i];
    }
  }
  __syncthreads();
  float* residue = lane.of.pool.Residue(lane.task.open_group, lane.lane);
  if (threadIdx.x < 2 * kDim) {
    float all = 0.0f;
    for (const auto& of_warp : memory->sums) all += of_warp[threadIdx.x];
    residue[threadIdx.x] += all;
  }
  if (threadIdx.x == 0) residue[2 * kDim] += static_cast<float>(count);
}

// Adds `count` tokens to the lane's residue: for_each_evicted(f) calls f(index of the slot) for
// each of them once, spread over the CTA. For a whole CTA; what for_each_evicted reads may be
// overwritten afterwards.
template <int kDim, typename ForEachEvicted>
__device__ void LeaveResidue(const ScoredLane& lane, uint32_t count,
                             const ForEachEvicted& for_each_evicted, ResidueMemory* memory) {
  float sum[16] = {};
  const uint32_t blocks = lane.block_count();
  for (uint32_t first = 0; first < blocks; first += kResidueBlocks) {
    __syncthreads();
    memory->evicted[threadIdx.x] = 0;
    __syncthreads();
    for_each_evicted([&](uint32_t slot) {
      const uint32_t at = slot - first * kSlotsPerPage;
      if (at / kSlotsPerPage < kResidueBlocks) atomicOr(&memory->evicted[at / 32], 1u << at % 32);
    });
    __syncthreads();
    SumEvicted<kDim>(lane, first, memory->evicted, sum);
  }
  AddToResidue<kDim>(lane, count, sum, memory);
}
static_assert(kResidueThreads == kResidueBlocks / 2);  // a thread clears a word

}  // namespace palimpsest::cuda::anneal
