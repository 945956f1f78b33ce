// SPDX-License-Identifier: Apache-2.0
// Anticipated queries, first launch: keys into books.
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

inline constexpr uint32_t kGatherThreads = 256;

// Grid: (groups of 64 rows, lanes).
template <int kDim>
__global__ void __launch_bounds__(kGatherThreads)
    TurnKeysKernel(const __grid_constant__ AnticipatedLaunch launch) {
  __shared__ float2 turn[kDim / 2];
  AllowSuccessor();
  const ScoredLane lane(launch.lanes, blockIdx.y);
  const uint32_t first = blockIdx.x * kGroupRows;
  if (threadIdx.x < kDim / 2) {
    // Rounded to float first, as models do it.
    const float angle = static_cast<float>(lane.task.next_position) *
                        launch.codebook.inverse_frequencies[threadIdx.x];
    float sine, cosine;
    sincosf(angle, &sine, &cosine);
    turn[threadIdx.x] = make_float2(cosine * launch.scale, sine * launch.scale);
  }
  __syncthreads();
  WaitForPredecessor();  // which may still read the books
  if (first >= lane.slots()) return;
  constexpr uint32_t kThreads = kRowThreads<kDim>;
  const uint32_t channel = threadIdx.x % kThreads * 8;
  const uint32_t mask = ((1u << kThreads) - 1) << (threadIdx.x % 32 / kThreads * kThreads);
  const Format format = lane.key_format();
  uint8_t* book = launch.keys + size_t{blockIdx.y} * BookBytes(launch.rows, kDim);
  for (uint32_t row = first + threadIdx.x / kThreads; row < first + kGroupRows;
       row += kGatherThreads / kThreads) {
    float x[16] = {};
    const bool in_page = row < lane.slots();
    const PageLane page = lane.page(in_page ? row / kSlotsPerPage : 0);
    if (in_page && (page.live() >> row % kSlotsPerPage & 1) != 0) {
      LoadKey<kDim>(format, page, row % kSlotsPerPage, channel, x);
    }
    if (launch.rotate_keys) Hadamard<kDim>(x, mask);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float2 by = turn[channel + i];
      const float low = x[i], high = x[i + 8];
      x[i] = low * by.x + high * by.y;
      x[i + 8] = high * by.x - low * by.y;
    }
    StoreRow<kDim>(x, row, channel, book);
  }
}

}  // namespace palimpsest::cuda::anneal
