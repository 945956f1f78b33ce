// SPDX-License-Identifier: Apache-2.0
// The kinds of anneal behind LaunchAnneal, each for tasks that do not depend on each other.
#pragma once

#include "kernels/cuda/anneal.h"

namespace palimpsest::cuda::anneal {

inline constexpr uint32_t kTasksMax = 48;  // of a launch: they are its arguments

// tasks[0, count), at most kTasksMax, are all of the kind. REQUIRES: what they demand
// there is.
cudaError_t LaunchKMeans(const AnnealParams& params, const AnnealTask* tasks, uint32_t count,
                         cudaStream_t stream);
// By what slots and positions tell: kMostRecent, kRandom, kAttentionReceived. kMostRecent also
// stands for any selector of a task that keeps nothing.
cudaError_t LaunchSelect(const AnnealParams& params, const AnnealTask* tasks, uint32_t count,
                         cudaStream_t stream);
// These two end in LaunchSelect or, where `scores` is not null and there is one task, leave the
// scores there: [lanes][slots of the class].
cudaError_t LaunchJoint(const AnnealParams& params, const AnnealTask* tasks, uint32_t count,
                        float* scores, cudaStream_t stream);
cudaError_t LaunchAnticipated(const AnnealParams& params, const AnnealTask* tasks, uint32_t count,
                              float* scores, cudaStream_t stream);

uint64_t KMeansScratchBytes(const DevicePool& pool);
// Of one lane, beside kScratchLost for all.
inline constexpr uint64_t kScratchLost = 4096;
uint64_t JointScratchBytes(const AnnealParams& params, uint32_t slots);
uint64_t AnticipatedScratchBytes(const AnnealParams& params, uint32_t slots);

}  // namespace palimpsest::cuda::anneal
