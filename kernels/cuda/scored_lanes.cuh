// SPDX-License-Identifier: Apache-2.0
// What the kernels have in common that score tokens lane by lane: which lanes of which tasks a
// launch is for, and how their scratch is laid out.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/anneal_kinds.h"
#include "kernels/cuda/page_lane.cuh"

namespace palimpsest::cuda::anneal {

inline constexpr uint32_t kLanesMax = 65535;  // of a launch: a grid's second dimension
// Many lanes are launched in multiples of these: half the multiprocessors of an H100, so that with
// an even number of CTAs a lane, one a multiprocessor, no round of them is nearly empty.
inline constexpr uint32_t kLanesOfRound = 66;

inline uint32_t SlotsMax(const AnnealTask* tasks, uint32_t count) {
  uint32_t pages = 0;
  for (uint32_t i = 0; i < count; ++i) pages = std::max(pages, tasks[i].page_count);
  return pages * kSlotsPerPage;
}

// The lanes of a launch: `lane_count` of those of all tasks. The first lane of every task, then the
// second: they need the same queries of a codebook, which are larger than the L2 cache for all
// lanes.
struct ScoredLanes {
  DevicePool pool;
  DeviceLayouts layouts;
  const PageEntry* page_entries = nullptr;
  AnnealTask tasks[kTasksMax] = {};
  uint32_t task_count = 0;
  uint32_t first_lane = 0;
  uint32_t lane_count = 0;

  ScoredLanes(const AnnealParams& params, const AnnealTask* from, uint32_t count)
      : pool(params.pool),
        layouts(params.layouts),
        page_entries(params.page_entries),
        task_count(count),
        lane_count(count * static_cast<uint32_t>(pool.layers * pool.kv_heads)) {
    std::copy_n(from, count, tasks);
  }
};

// One of them.
struct ScoredLane {
  const ScoredLanes& of;
  const uint32_t index;  // in the launch
  const uint32_t lane;   // layer * kv_heads + kv_head
  const AnnealTask& task;

  __device__ ScoredLane(const ScoredLanes& lanes, uint32_t i)
      : of(lanes),
        index(i),
        lane((lanes.first_lane + i) / lanes.task_count),
        task(lanes.tasks[(lanes.first_lane + i) % lanes.task_count]) {}

  __device__ uint32_t layer() const { return lane / of.pool.kv_heads; }
  __device__ uint32_t kv_head() const { return lane % of.pool.kv_heads; }
  __device__ uint32_t slots() const { return task.page_count * kSlotsPerPage; }
  __device__ PageLane page(uint32_t index_in_class) const {
    return {of.pool, of.layouts, of.page_entries[task.first_page + index_in_class], lane};
  }
  // All pages of a class have one. REQUIRES: there is a page.
  __device__ PageFormat format() const { return FormatsOf(of.page_entries[task.first_page]); }
  // f(index of the slot, lane of its page, position) for every live token of the segment, spread
  // over the CTA.
  template <typename F>
  __device__ void ForEachToken(F&& f) const {
    const uint32_t lanes[1] = {lane};
    ForEachLiveSlot(of.pool, of.layouts, of.page_entries + task.first_page, task.page_count, lanes,
                    [&](uint32_t slot_index, int, const PageLane& at, uint32_t position) {
                      if (position >= task.first_position && position < task.end_position) {
                        f(slot_index, at, position);
                      }
                    });
  }
};

// Hands out scratch, array by array, each with as many elements for every lane.
class ScratchPlan {
 public:
  explicit ScratchPlan(void* scratch, uint64_t lanes)
      : next_(static_cast<uint8_t*>(scratch)), lanes_(lanes) {}

  template <typename T>
  void Take(uint64_t elements, T** array) {
    *array = reinterpret_cast<T*>(next_);
    const uint64_t each = elements * sizeof(T);
    bytes_of_lane_ += each;
    next_ += (each * lanes_ + kAlignment - 1) / kAlignment * kAlignment;
  }
  // What was handed out, but for alignment, which costs kScratchLost at the most.
  uint64_t bytes_of_lane() const { return bytes_of_lane_; }

 private:
  static constexpr uint64_t kAlignment = kScratchLost / 16;  // of up to 16 arrays

  uint8_t* next_;
  const uint64_t lanes_;
  uint64_t bytes_of_lane_ = 0;
};

// Calls run(lanes, scratch plan) for as many lanes at a time as there is scratch for.
template <typename Run>
cudaError_t ForLanes(const AnnealParams& params, const AnnealTask* tasks, uint32_t count,
                     uint64_t bytes_of_lane, const Run& run) {
  ScoredLanes lanes(params, tasks, count);
  const uint32_t end = lanes.lane_count;
  const uint64_t room =
      params.scratch_bytes > kScratchLost ? params.scratch_bytes - kScratchLost : 0;
  auto at_once =
      static_cast<uint32_t>(std::min<uint64_t>(room / bytes_of_lane, std::min(end, kLanesMax)));
  if (at_once == 0) return cudaErrorInvalidValue;
  if (at_once < end && at_once > kLanesOfRound) at_once -= at_once % kLanesOfRound;
  // In equal parts, so that the last does not leave most of the device idle.
  const uint32_t parts = (end + at_once - 1) / at_once;
  for (uint32_t part = 0; part < parts; ++part) {
    lanes.first_lane = static_cast<uint32_t>(uint64_t{end} * part / parts);
    lanes.lane_count = static_cast<uint32_t>(uint64_t{end} * (part + 1) / parts) - lanes.first_lane;
    const cudaError_t error = run(lanes, ScratchPlan(params.scratch, lanes.lane_count));
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace palimpsest::cuda::anneal
