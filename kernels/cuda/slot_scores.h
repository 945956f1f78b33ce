// SPDX-License-Identifier: Apache-2.0
// What attention tells of each token: the probability it got, summed over query heads.
//
// A softmax's denominators are known only when all its pages have been seen. So a traced attend
// leaves unnormalised probabilities behind (AttendTrace), 2 bytes a slot and query head, and this
// divides, in place of a second pass over K. What comes of it depends on the sequence (SlotUse):
//
//   kAddReceived  H2O: is added to the slot's score, in pages and in the open group
//   kEvict        LongFlow: times the slot's score, which is the L1 norm of V, summed over all
//   query
//                 heads of the layer; the token of the least sum dies in every KV head
//
// All KV heads of a layer of an evicting sequence hold the same tokens in the same slots: they do
// when they have never been treated differently.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/attend.h"

namespace palimpsest::cuda {

inline constexpr int kNoLayer = -1;

// A token that may be evicted. The least key goes: the sum's bits, then the position.
struct EvictionCandidate {
  uint64_t key = 0;
  uint32_t place = 0;  // index into the page entries * 16 + slot
  uint32_t reserved = 0;
};
inline constexpr uint64_t kNoCandidate = ~uint64_t{0};

// Of one layer's eviction. `least` is kNoCandidate in between.
struct EvictionBuffers {
  EvictionCandidate* candidates = nullptr;  // [items]: the least of what the item's warp has seen
  unsigned long long* least = nullptr;      // [rows]: the least key of the sequence
};

// Which token is the least is known when the launch ends. So the launch of the next layer evicts
// it, and one without a layer of its own that of the last.
struct SlotScoreParams {
  DevicePool pool;
  DeviceLayouts layouts;
  AttendBuffers step;
  AttendTrace trace;
  int layer = kNoLayer;  // that the trace is of
  EvictionBuffers found;
  int found_layer = kNoLayer;  // whose candidates were found by the launch before
  EvictionBuffers found_before;
};

// REQUIRES: the step's tables are those that attend had; the grid is attend's.
cudaError_t LaunchSlotScores(const SlotScoreParams& params, const AttendGeometry& geometry,
                             cudaStream_t stream);

}  // namespace palimpsest::cuda
