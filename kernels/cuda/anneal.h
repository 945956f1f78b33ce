// SPDX-License-Identifier: Apache-2.0
// Fewer live tokens in segments, for many (segment, layer) at once: clears live bits, moves
// nothing.
//
// K-means takes three launches (find the tokens, all pairs' distances, cluster and clear), keeping
// the newest or the best by a score takes one. What is kept is what kernels/cpu keeps, but for ties
// that fp32 rounding makes or breaks there: here distances are fp64.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "common/base/selector.h"
#include "kernels/cuda/step_tables.h"

namespace palimpsest::cuda {

// One AnnealOrder. The pages of its class lie at page_entries[first_page ...]; all have one format.
struct AnnealTask {
  uint32_t first_page = 0;
  uint32_t page_count = 0;
  uint32_t first_position = 0;  // the segment covers [first_position, end_position)
  uint32_t end_position = 0;
  uint32_t keep = 0;
  Selector selector = Selector::kKMeansMedoids;
};

struct AnnealParams {
  DevicePool pool;
  DeviceLayouts layouts;
  const PageEntry* page_entries = nullptr;  // device memory
  void* scratch = nullptr;                  // device memory, at a multiple of 256 bytes
  uint64_t scratch_bytes = 0;               // AnnealScratchBytes, or more
};

// Scratch for a good pace: 32 MiB for small models, 64 MiB for large ones.
uint64_t AnnealScratchBytes(const DevicePool& pool);

// The most live tokens of a segment that k-means can take with this scratch, whatever it keeps:
// their distances take 16 * tokens^2 bytes. 1,536 at most; 1,400 with 32 MiB. Segments of up to
// about 150 are quick, because their distances fit shared memory.
uint32_t KMeansTokensMax(const DevicePool& pool, uint64_t scratch_bytes);

// What bounds a task's live tokens from outside.
constexpr uint32_t TokensBound(const AnnealTask& task) {
  const uint64_t slots = uint64_t{task.page_count} * kSlotsPerPage;
  const uint32_t span = task.end_position - task.first_position;
  return span < slots ? span : static_cast<uint32_t>(slots);
}

// Carries out tasks[0, count) (host memory) in their order: where two name one class and segments
// that overlap, the second sees what the first has left. cudaErrorInvalidValue, and nothing done,
// when a k-means task's TokensBound exceeds KMeansTokensMax; `keep` of 0 needs no k-means.
// REQUIRES: head_dim a multiple of 16 up to 256.
cudaError_t LaunchAnneal(const AnnealParams& params, const AnnealTask* tasks, uint32_t count,
                         cudaStream_t stream);

// Keeps the `keep` live tokens of the segment with the highest scores in every lane by itself; of
// equal scores the lower position. task.selector is not used. scores: device memory,
// [layers][kv_heads][task.page_count * 16], one for each slot of the class; those of live slots of
// the segment are read and must not be NaN. params.scratch is not used.
cudaError_t LaunchKeepByScore(const AnnealParams& params, const AnnealTask& task,
                              const float* scores, cudaStream_t stream);

}  // namespace palimpsest::cuda
