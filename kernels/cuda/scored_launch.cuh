// SPDX-License-Identifier: Apache-2.0
// The host's side of every selector that computes scores: as many lanes at a time as there is
// scratch for, scored and then chosen from. A Method says how its kernels score:
//
//   Launch                   what they take, with `lanes`, `rows` and `scores` among it
//   Make(params, lanes)      one without scratch
//   Place(params, plan, &l)  hands out l's scratch, for l.rows tokens a lane
//   Score<kDim>(l, stream)   launches them
#pragma once

#include "kernels/cuda/anneal_select_launch.h"
#include "kernels/cuda/operand_book.h"
#include "kernels/cuda/scored_lanes.cuh"

namespace palimpsest::cuda::anneal {

// Without scratch, but with room for every token of `slots` slots.
template <typename Method>
typename Method::Launch MakeLaunch(const AnnealParams& params, const ScoredLanes& lanes,
                                   uint32_t slots) {
  typename Method::Launch launch = Method::Make(params, lanes);
  launch.rows = (slots + kTileRows - 1) / kTileRows * kTileRows;
  return launch;
}

template <typename Method>
uint64_t ScratchBytesOfLane(const AnnealParams& params, uint32_t slots) {
  auto launch = MakeLaunch<Method>(params, ScoredLanes(params, nullptr, 0), slots);
  return Method::Place(params, ScratchPlan(nullptr, 0), &launch).bytes_of_lane();
}

template <typename Method>
cudaError_t LaunchScored(const AnnealParams& params, const AnnealTask* tasks, uint32_t count,
                         float* scores, cudaStream_t stream) {
  const auto bytes = [&](uint32_t slots) { return ScratchBytesOfLane<Method>(params, slots); };
  const auto run = [&](const ScoredLanes& lanes, uint32_t slots, ScratchPlan plan) {
    auto launch = MakeLaunch<Method>(params, lanes, slots);
    Method::Place(params, plan, &launch);
    const cudaError_t error = params.pool.head_dim == 64
                                  ? Method::template Score<64>(launch, stream)
                                  : Method::template Score<128>(launch, stream);
    if (error != cudaSuccess) return error;
    return UseScores({.lanes = lanes, .scores = launch.scores, .slots_max = launch.rows}, scores,
                     stream);
  };
  return ForLanes(params, tasks, count, bytes, run);
}

}  // namespace palimpsest::cuda::anneal
