// SPDX-License-Identifier: Apache-2.0
// K-means, first launch: finds each lane's tokens of the segment and puts them in order of
// position.
#pragma once

#include "kernels/cuda/anneal_launch.cuh"
#include "kernels/cuda/launch_order.cuh"
#include "kernels/cuda/position_ranks.cuh"

namespace palimpsest::cuda::anneal {

inline constexpr int kFindThreads = 256;

// Grid: (KV heads, problems). Every CTA looks through head 0 too, to say whether its own head holds
// the same positions; so nobody has to wait for another CTA.
__global__ void __launch_bounds__(kFindThreads)
    FindTokensKernel(const __grid_constant__ AnnealLaunch launch) {
  using Ranks = PositionRanks<kFindThreads>;
  __shared__ Ranks::Storage own_storage, first_storage;
  AllowSuccessor();
  const Problem problem(launch, blockIdx.y);
  const uint32_t head = blockIdx.x;
  SlotPlace* places = problem.places(head);
  Ranks own(&own_storage), first(&first_storage);
  uint32_t tokens = 0;
  bool differs = false;
  for (uint32_t begin = problem.task.first_position; begin != Ranks::kNone; begin = own.next()) {
    own.Begin(begin);
    first.Begin(begin);
    problem.ForEachToken<2>({head, 0}, [&](uint32_t, int which, const PageLane&, uint32_t p) {
      (which == 0 ? own : first).Add(p);
    });
    const uint32_t count = own.Count();
    differs |= first.next() != own.next();
    for (uint32_t w = threadIdx.x; w < Ranks::kWords; w += kFindThreads) {
      differs |= first.bits(w) != own.bits(w);
    }
    problem.ForEachToken(head, [&](uint32_t i, const PageLane& of, uint32_t position) {
      if (!own.Covers(position)) return;
      places[tokens + own.Rank(position)] =
          static_cast<SlotPlace>(of.page - launch.pool.pages) | (i % kSlotsPerPage);
    });
    tokens += count;
  }
  differs = __syncthreads_or(differs);
  if (threadIdx.x != 0) return;
  problem.count(head) = tokens;
  problem.agrees(head) = !differs;
}

}  // namespace palimpsest::cuda::anneal
