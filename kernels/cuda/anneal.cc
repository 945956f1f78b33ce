// SPDX-License-Identifier: Apache-2.0
// Sorts tasks into launches: many at a time, of one kind each, none of which needs another's
// result.
#include "kernels/cuda/anneal.h"

#include <algorithm>
#include <array>

#include "kernels/cuda/anneal_kinds.h"
#include "kernels/uneven_lanes.h"

namespace palimpsest::cuda {
namespace {

using anneal::kTasksMax;

constexpr uint32_t kScoredSlotsMax = kLaneBlocksMax * kSlotsPerPage;
constexpr uint64_t kScoreScratchBytesMax = uint64_t{256} << 20;
constexpr uint64_t kUsualTokens = 1280;  // a budget and what comes in before the next anneal
constexpr uint64_t kRowsOfToken = 3;     // of head_dim bf16: keys, values, and the queries'
constexpr uint64_t kBytesBeside = 96;    // of a token, for its numbers

enum class Kind : uint8_t { kKMeans, kSelect, kJoint, kAnticipated };
constexpr int kKindCount = 4;

Kind KindOf(const AnnealTask& task) {
  // Where `recent` takes all that is kept, there is nothing to score.
  if (task.keep == 0 || task.selector == Selector::kMostRecent) return Kind::kSelect;
  if (task.selector == Selector::kKMeansMedoids) return Kind::kKMeans;
  if (task.recent >= task.keep) return Kind::kSelect;
  if (task.selector == Selector::kJointScore) return Kind::kJoint;
  return task.selector == Selector::kAnticipated ? Kind::kAnticipated : Kind::kSelect;
}

// Does the later of two tasks depend on what the earlier leaves?
bool Depends(const AnnealTask& earlier, const AnnealTask& later) {
  if (earlier.residue && later.residue && earlier.open_group == later.open_group) return true;
  if (earlier.first_page != later.first_page) return false;
  if (KindOf(later) == Kind::kAnticipated || KindOf(earlier) == Kind::kAnticipated) {
    return true;  // which look at the whole class
  }
  return earlier.first_position < later.end_position && later.first_position < earlier.end_position;
}

cudaError_t Launch(Kind kind, const AnnealParams& params, const AnnealTask* tasks, uint32_t count,
                   cudaStream_t stream) {
  switch (kind) {
    case Kind::kKMeans:
      return anneal::LaunchKMeans(params, tasks, count, stream);
    case Kind::kSelect:
      return anneal::LaunchSelect(params, tasks, count, stream);
    case Kind::kJoint:
      return anneal::LaunchJoint(params, tasks, count, nullptr, stream);
    case Kind::kAnticipated:
      return anneal::LaunchAnticipated(params, tasks, count, nullptr, stream);
  }
  return cudaErrorInvalidValue;
}

// Tasks of one kind that wait to be launched together.
struct Batch {
  std::array<AnnealTask, kTasksMax> tasks;
  uint32_t count = 0;
};

class Batches {
 public:
  Batches(const AnnealParams& params, cudaStream_t stream) : params_(params), stream_(stream) {}

  cudaError_t Add(const AnnealTask& task) {
    for (const Batch& batch : batches_) {
      if (!std::any_of(batch.tasks.begin(), batch.tasks.begin() + batch.count,
                       [&](const AnnealTask& waiting) { return Depends(waiting, task); })) {
        continue;
      }
      const cudaError_t error = LaunchAll();
      if (error != cudaSuccess) return error;
      break;
    }
    Batch& batch = batches_[static_cast<size_t>(KindOf(task))];
    batch.tasks[batch.count++] = task;
    return batch.count < kTasksMax ? cudaSuccess : LaunchBatch(KindOf(task));
  }

  cudaError_t LaunchAll() {
    for (int kind = 0; kind < kKindCount; ++kind) {
      const cudaError_t error = LaunchBatch(static_cast<Kind>(kind));
      if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
  }

 private:
  cudaError_t LaunchBatch(Kind kind) {
    Batch& batch = batches_[static_cast<size_t>(kind)];
    const uint32_t count = batch.count;
    batch.count = 0;
    if (count == 0) return cudaSuccess;
    return Launch(kind, params_, batch.tasks.data(), count, stream_);
  }

  const AnnealParams& params_;
  cudaStream_t const stream_;
  std::array<Batch, kKindCount> batches_;
};

}  // namespace

uint64_t AnnealScratchBytes(const DevicePool& pool, bool scores, uint64_t sequences) {
  const uint64_t k_means = anneal::KMeansScratchBytes(pool);
  if (!scores) return k_means;
  const uint64_t lane =
      kUsualTokens * (kRowsOfToken * static_cast<uint64_t>(pool.head_dim) * 2 + kBytesBeside);
  const uint64_t all = sequences * pool.layers * pool.kv_heads * lane;
  return std::max(k_means, std::min(all, kScoreScratchBytesMax));
}

uint32_t ScoredSlotsMax(const AnnealParams& params, Selector selector) {
  const auto bytes = selector == Selector::kJointScore ? anneal::JointScratchBytes
                                                       : anneal::AnticipatedScratchBytes;
  uint32_t slots = kScoredSlotsMax;
  while (slots > 0 && bytes(params, slots) + anneal::kScratchLost > params.scratch_bytes) {
    slots /= 2;
  }
  return slots;
}

AnnealDemand DemandOf(const AnnealParams& params, const AnnealTask& task) {
  switch (KindOf(task)) {
    case Kind::kKMeans:
      return {"tokens to cluster", TokensBound(task),
              KMeansTokensMax(params.pool, params.scratch_bytes)};
    case Kind::kJoint:
    case Kind::kAnticipated:
      return {"slots to score", task.block_count * kSlotsPerPage,
              ScoredSlotsMax(params, task.selector)};
    case Kind::kSelect:
      break;
  }
  return {};
}

cudaError_t LaunchAnneal(const AnnealParams& params, const AnnealTask* tasks, uint32_t count,
                         cudaStream_t stream) {
  for (uint32_t i = 0; i < count; ++i) {
    const AnnealDemand demand = DemandOf(params, tasks[i]);
    if (demand.count > demand.max) return cudaErrorInvalidValue;
  }
  Batches batches(params, stream);
  for (uint32_t i = 0; i < count; ++i) {
    const cudaError_t error = batches.Add(tasks[i]);
    if (error != cudaSuccess) return error;
  }
  return batches.LaunchAll();
}

cudaError_t LaunchScores(const AnnealParams& params, const AnnealTask& task, float* scores,
                         cudaStream_t stream) {
  const AnnealDemand demand = DemandOf(params, task);
  if (demand.count > demand.max) return cudaErrorInvalidValue;
  const auto launch =
      task.selector == Selector::kJointScore ? anneal::LaunchJoint : anneal::LaunchAnticipated;
  AnnealParams in_order = params;
  in_order.uneven.lanes = nullptr;
  return launch(in_order, &task, 1, scores, stream);
}

}  // namespace palimpsest::cuda
