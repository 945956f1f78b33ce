// SPDX-License-Identifier: Apache-2.0
// The last launch of every anneal that goes by scores.
#pragma once

#include "kernels/cuda/scored_lanes.cuh"

namespace palimpsest::cuda::anneal {

struct SelectLaunch {
  ScoredLanes lanes;
  const float* scores = nullptr;  // [lanes][slots_max], or null: slots and positions tell
  uint32_t slots_max = 0;         // of a task's class
};

// In every lane, leaves the task's `keep` best tokens alive. REQUIRES: there are lanes.
cudaError_t LaunchSelectKernel(const SelectLaunch& launch, cudaStream_t stream);

// The same, or, where `scores` is not null, copies the scores of a launch's one task there:
// [lanes][slots of the class].
cudaError_t UseScores(const SelectLaunch& launch, float* scores, cudaStream_t stream);

}  // namespace palimpsest::cuda::anneal
