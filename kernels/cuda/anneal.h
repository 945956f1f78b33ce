// SPDX-License-Identifier: Apache-2.0
// Fewer live tokens in segments, for many (segment, layer, KV head) at once: clears live bits,
// moves nothing.
//
// What is kept is what kernels/cpu keeps, but for ties that rounding makes or breaks there: k-means
// has its distances in fp64 here, scores have their logits from tensor cores.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "common/base/selector.h"
#include "kernels/cuda/query_sources.h"
#include "kernels/cuda/step_tables.h"
#include "kernels/cuda/uneven_table.h"

namespace palimpsest::cuda {

// One AnnealOrder. The pages of its class lie at page_entries[first_page ...]; all have one format.
// An uneven sequence has tables besides (not for k-means nor kJointScore): its lanes' own numbers
// are there, and those below are the largest of any lane.
struct AnnealTask {
  uint32_t first_page = 0;
  uint32_t block_count = 0;     // of a lane: a block a page
  uint32_t first_position = 0;  // the segment covers [first_position, end_position)
  uint32_t end_position = 0;
  uint32_t keep = 0;
  uint32_t recent = 0;         // so many of the newest stay (at most `keep`); not for k-means
  uint32_t next_position = 0;  // of the sequence's next token
  uint32_t open_group = 0;     // whose newest queries (kJointScore), and whose residue
  uint32_t table = kNoTable;   // of an uneven sequence: where its UnevenTable begins
  uint32_t keeps = kNoTable;   // and its LaneKeeps
  Selector selector = Selector::kKMeansMedoids;
  bool residue = false;  // what goes is summed into the open group's residue
};

// What there must be for tasks of uneven sequences.
struct UnevenParams {
  const uint32_t* tables = nullptr;       // device memory: numbers that tasks point into
  const uint32_t* host_tables = nullptr;  // the same in host memory
  const uint32_t* lanes = nullptr;        // device memory: the lane of each rank. May be left out
};

struct AnnealParams {
  DevicePool pool;
  DeviceLayouts layouts;
  const PageEntry* page_entries = nullptr;  // device memory
  UnevenParams uneven = {};
  void* scratch = nullptr;         // device memory, at a multiple of 256 bytes
  uint64_t scratch_bytes = 0;      // AnnealScratchBytes, or more
  CodebookOnDevice codebook = {};  // for kAnticipated
  QueryWindows queries = {};       // for kJointScore
  bool rotate_keys = false;        // keys are stored after a Hadamard transform
};

// Scratch for a good pace: 32 MiB for small models, 64 MiB for large ones; where `scores` will be
// computed, of up to `sequences` at a time, up to 256 MiB.
uint64_t AnnealScratchBytes(const DevicePool& pool, bool scores, uint64_t sequences);

// The most live tokens of a segment that k-means can take with this scratch, whatever it keeps:
// their distances take 16 * tokens^2 bytes. 1,536 at most; 1,400 with 32 MiB. Segments of up to
// about 150 are quick, because their distances fit shared memory.
uint32_t KMeansTokensMax(const DevicePool& pool, uint64_t scratch_bytes);

// The most slots of a class that can be scored with this scratch, for kJointScore and kAnticipated:
// 32,768 at most. Other selectors take any number.
uint32_t ScoredSlotsMax(const AnnealParams& params, Selector selector);

// What bounds a task's live tokens from outside.
constexpr uint32_t TokensBound(const AnnealTask& task) {
  const uint64_t slots = uint64_t{task.block_count} * kSlotsPerPage;
  const uint32_t span = task.end_position - task.first_position;
  return span < slots ? span : static_cast<uint32_t>(slots);
}
// What a task asks of the scratch, and how much of that there may be: tokens for k-means, slots for
// selectors that score. `what` names it in errors.
struct AnnealDemand {
  const char* what = "";
  uint32_t count = 0;
  uint32_t max = ~uint32_t{0};
};
AnnealDemand DemandOf(const AnnealParams& params, const AnnealTask& task);

// Carries out tasks[0, count) (host memory), as if in their order: where two name one class and
// segments that overlap, the second sees what the first has left. Of tokens with equal scores the
// lower position is kept. cudaErrorInvalidValue, and nothing done, when a task's demand is too
// large. REQUIRES: head_dim a multiple of 16 up to 256, 64 or 128 for selectors
// that score by logits.
cudaError_t LaunchAnneal(const AnnealParams& params, const AnnealTask* tasks, uint32_t count,
                         cudaStream_t stream);

// Keeps the `keep` live tokens of the segment with the highest scores in every lane by itself,
// the `recent` newest in any case. task.selector is not used. scores: device memory,
// [layers][kv_heads][task.block_count * 16], one for each slot of the class; those of live slots of
// the segment are read and must not be NaN. params.scratch is not used.
cudaError_t LaunchKeepByScore(const AnnealParams& params, const AnnealTask& task,
                              const float* scores, cudaStream_t stream);

// What kJointScore or kAnticipated would go by: the scores of live slots of the segment,
// kJointScore without the `recent` newest, of every lane. scores: device memory, as above.
// REQUIRES: task.keep is less than the segment's live tokens.
cudaError_t LaunchScores(const AnnealParams& params, const AnnealTask& task, float* scores,
                         cudaStream_t stream);

}  // namespace palimpsest::cuda
