// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/attend.h"
#include "kernels/cuda/slot_work.h"

namespace palimpsest::cuda {

// Of one layer. Which token is the least is known when the launch that finds it has ended. So the
// launch after it evicts.
struct SlotWork {
  int layer = kNoLayer;  // that `trace` is of
  AttendTrace trace;
  EvictionBuffers found;
  int found_layer = kNoLayer;  // whose candidates the launch before has found
  EvictionBuffers found_before;
};

struct SlotScoreParams {
  DevicePool pool;
  DeviceLayouts layouts;
  AttendBuffers step;
  SlotWork layers[kScoredTogether] = {};
};

// REQUIRES: the step's tables are those that attend had; the grid is attend's.
cudaError_t LaunchSlotScores(const SlotScoreParams& params, const AttendGeometry& geometry,
                             cudaStream_t stream);

}  // namespace palimpsest::cuda
