// SPDX-License-Identifier: Apache-2.0
// Attention mass: the softmax probability of each slot, summed over the query heads that share its
// KV head. What scores of tokens are made of (H2O sums it over steps, R-KV and LongFlow weigh it).
//
// The denominators of a softmax are known only when all its pages have been seen, so a traced
// attend leaves unnormalised probabilities behind, and this divides: 16 to 24 bytes a slot and KV
// head in place of a second pass over K.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/attend.h"

namespace palimpsest::cuda {

// Of the layer that `trace` was last written for. mass: [kv_heads][tiles][16] fp32; written for the
// tiles of the step's sequences: 0 for dead slots, and for sequences that add several rows.
cudaError_t LaunchAttentionMass(const DevicePool& pool, const StepHeader* header,
                                const StepSequence* sequences, uint32_t sequences_max,
                                const AttendTrace& trace, float* mass, cudaStream_t stream);

}  // namespace palimpsest::cuda
