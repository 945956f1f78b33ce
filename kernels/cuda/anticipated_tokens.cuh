// SPDX-License-Identifier: Apache-2.0
// Anticipated queries, first and second launch: which slots are alive, and their keys and values
// into books.
//
// Queries of the codebook are from before RoPE and would have to be turned to the position of the
// next token: R(p) q . k = q . R(-p) k, so it is the keys that are turned, once each instead of
// thousands of queries for every sequence; and a Hadamard transform of the keys is taken back. They
// are rounded to bf16 afterwards, as queries are that a model makes.
#pragma once

#include "kernels/cuda/anticipated_launch.cuh"
#include "kernels/cuda/gather_keys.cuh"
#include "kernels/cuda/hadamard.cuh"
#include "kernels/cuda/launch_order.cuh"

namespace palimpsest::cuda::anneal {

inline constexpr uint32_t kFindLiveThreads = 256;
inline constexpr uint32_t kGatherThreads = 256;
inline constexpr uint32_t kGatherRows = 2 * kTileRows;  // of a CTA

// Are there no more tokens of the segment than the lane keeps? A lane of a large share may have too
// few yet when one of a small share has long had too many; nothing is to be done for it. For a
// whole CTA.
__device__ inline bool IsSpared(const ScoredLane& lane, uint32_t* of_warp) {
  uint32_t own = 0;
  lane.ForEachToken([&](uint32_t, const PageLane&, uint32_t) { ++own; });
  own = __reduce_add_sync(~0u, own);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = own;
  __syncthreads();
  uint32_t tokens = 0;
  for (uint32_t w = 0; w < kFindLiveThreads / 32; ++w) tokens += of_warp[w];
  __syncthreads();
  return tokens <= lane.keep().keep;
}

// A CTA a lane, a thread a block.
__global__ void __launch_bounds__(kFindLiveThreads)
    FindLiveKernel(const __grid_constant__ AnticipatedLaunch launch) {
  __shared__ uint32_t of_warp[kFindLiveThreads / 32];
  AllowSuccessor();
  WaitForPredecessor();
  const ScoredLane lane(launch.lanes, blockIdx.x);
  uint32_t* slots = launch.slots + size_t{blockIdx.x} * launch.rows;
  if (lane.uneven() && IsSpared(lane, of_warp)) {
    if (threadIdx.x == 0) launch.counts[blockIdx.x] = 0;
    return;
  }
  uint32_t before = 0;
  const uint32_t blocks = lane.block_count();
  for (uint32_t first = 0; first < blocks; first += kFindLiveThreads) {
    const uint32_t block = first + threadIdx.x;
    const uint32_t live = block < blocks ? lane.block(block).live() : 0;
    const auto own = static_cast<uint32_t>(__popc(live));
    uint32_t sum = own;  // of this thread and those before it in the warp
    for (uint32_t d = 1; d < 32; d *= 2) {
      const uint32_t other = __shfl_up_sync(~0u, sum, d);
      if (threadIdx.x % 32 >= d) sum += other;
    }
    __syncthreads();
    if (threadIdx.x % 32 == 31) of_warp[threadIdx.x / 32] = sum;
    __syncthreads();
    uint32_t to = before + sum - own;
    for (uint32_t w = 0; w < kFindLiveThreads / 32; ++w) {
      if (w < threadIdx.x / 32) to += of_warp[w];
      before += of_warp[w];
    }
    for (uint32_t left = live; left != 0; left &= left - 1) {
      slots[to++] = block * kSlotsPerPage + __ffs(left) - 1;
    }
  }
  if (threadIdx.x == 0) launch.counts[blockIdx.x] = before;
}

// Grid: (groups of 128 rows, lanes). Finding blocks of uneven sequences must not cost a CTA that
// could be on the multiprocessor: hence four.
template <int kDim>
__global__ void __launch_bounds__(kGatherThreads, 4)
    GatherTokensKernel(const __grid_constant__ AnticipatedLaunch launch) {
  __shared__ float2 turns[kDim / 2];
  AllowSuccessor();
  const ScoredLane lane(launch.lanes, blockIdx.y);
  if (threadIdx.x < kDim / 2) {
    // Rounded to float first, as models do it.
    const float angle = static_cast<float>(lane.task.next_position) *
                        launch.codebook.inverse_frequencies[threadIdx.x];
    float sine, cosine;
    sincosf(angle, &sine, &cosine);
    turns[threadIdx.x] = make_float2(cosine * launch.scale, sine * launch.scale);
  }
  __syncthreads();
  WaitForPredecessor();
  const uint32_t count = launch.counts[blockIdx.y], first = blockIdx.x * kGatherRows;
  if (first >= count) return;
  constexpr uint32_t kThreads = kRowThreads<kDim>;
  const uint32_t channel = threadIdx.x % kThreads * 8;
  const uint32_t mask = ((1u << kThreads) - 1) << (threadIdx.x % 32 / kThreads * kThreads);
  float2 turn[8];
#pragma unroll
  for (uint32_t i = 0; i < 8; ++i) turn[i] = turns[channel + i];
  const size_t base = size_t{blockIdx.y} * launch.rows;
  const PageFormat format = lane.format();
  uint8_t* keys = launch.keys + BookBytes(base, kDim);
  uint8_t* values = launch.values + BookBytes(base, kDim);
  // Behind the tokens, zeros up to a whole tile.
  const uint32_t end = min(first + kGatherRows, (count + kTileRows - 1) / kTileRows * kTileRows);
  for (uint32_t row = first + threadIdx.x / kThreads; row < end; row += kGatherThreads / kThreads) {
    float k[16] = {}, v[16] = {};
    if (row < count) {
      const uint32_t slot = launch.slots[base + row];
      const PageLane page = lane.block(slot / kSlotsPerPage);
      LoadRow<kDim>(format.k, page.k_data(), page.k_scales(), slot % kSlotsPerPage, channel, k);
      LoadRow<kDim>(format.v, page.v_data(), page.v_scales(), slot % kSlotsPerPage, channel, v);
    }
    if (launch.rotate_keys) Hadamard<kDim>(k, mask);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float low = k[i], high = k[i + 8];
      k[i] = low * turn[i].x + high * turn[i].y;
      k[i + 8] = high * turn[i].x - low * turn[i].y;
    }
    StoreRow<kDim>(k, row, channel, keys);
    StoreRow<kDim>(v, row, channel, values);
    const float square = SumOfSquares<kDim>(v, mask);
    if (channel == 0) launch.value_squares[base + row] = square;
  }
}

}  // namespace palimpsest::cuda::anneal
