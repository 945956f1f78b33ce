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

inline bool IsUneven(const AnnealTask& task) { return task.table != kNoTable; }

// Slots of the largest lane.
inline uint32_t SlotsMax(const AnnealTask* tasks, uint32_t count) {
  uint32_t blocks = 0;
  for (uint32_t i = 0; i < count; ++i) blocks = std::max(blocks, tasks[i].block_count);
  return blocks * kSlotsPerPage;
}

// The lanes of a launch: `lane_count` of those of all tasks. The first lane of every task, then the
// second: they need the same queries of a codebook, which are larger than the L2 cache for all
// lanes. Where a sequence is uneven, lanes come in the order of their ranks: the largest first, so
// that no multiprocessor begins a long one when the others are about to be done, and so that parts
// of a launch, each with scratch for its own largest lane, have lanes of about one size.
struct ScoredLanes {
  DevicePool pool;
  DeviceLayouts layouts;
  const PageEntry* page_entries = nullptr;
  const uint32_t* tables = nullptr;   // of uneven sequences
  const uint32_t* by_rank = nullptr;  // the lane of each rank, or null: in their own order
  AnnealTask tasks[kTasksMax] = {};
  uint32_t task_count = 0;
  uint32_t first_lane = 0;
  uint32_t lane_count = 0;

  ScoredLanes(const AnnealParams& params, const AnnealTask* from, uint32_t count)
      : pool(params.pool),
        layouts(params.layouts),
        page_entries(params.page_entries),
        tables(params.uneven.tables),
        by_rank(std::any_of(from, from + count, IsUneven) ? params.uneven.lanes : nullptr),
        task_count(count),
        lane_count(count * static_cast<uint32_t>(pool.layers * pool.kv_heads)) {
    std::copy_n(from, count, tasks);
  }

  // Slots of the largest lane from `first_lane` on. `host_tables`: see UnevenParams.
  uint32_t SlotsLeftMax(const uint32_t* host_tables) const {
    if (by_rank == nullptr) return SlotsMax(tasks, task_count);
    const uint32_t rank = first_lane / task_count;
    uint32_t blocks = 0;
    for (uint32_t i = 0; i < task_count; ++i) {
      const AnnealTask& task = tasks[i];
      blocks =
          std::max(blocks, IsUneven(task) ? UnevenTable{host_tables + task.table}.block_count(rank)
                                          : task.block_count);
    }
    return blocks * kSlotsPerPage;
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
        lane(LaneOf(lanes, (lanes.first_lane + i) / lanes.task_count)),
        task(lanes.tasks[(lanes.first_lane + i) % lanes.task_count]) {}

  __device__ uint32_t layer() const { return lane / of.pool.kv_heads; }
  __device__ uint32_t kv_head() const { return lane % of.pool.kv_heads; }
  __device__ bool uneven() const { return task.table != kNoTable; }
  __device__ uint32_t block_count() const {
    return uneven() ? uneven_blocks().count() : task.block_count;
  }
  __device__ uint32_t slots() const { return block_count() * kSlotsPerPage; }
  __device__ PageLane block(uint32_t i) const {
    const LaneBlock at = uneven() ? uneven_blocks()(i) : even_blocks()(i);
    return {of.pool, of.layouts, at.entry, at.place};
  }
  // What this lane keeps.
  __device__ LaneKeep keep() const {
    return uneven() ? LaneKeep::Of(of.tables + task.keeps, lane) : LaneKeep{task.keep, task.recent};
  }
  // All pages of a class have one. REQUIRES: there is a page.
  __device__ PageFormat format() const { return FormatsOf(of.page_entries[task.first_page]); }
  // f(index of the slot, lane of its page, position) for every live token of the segment, spread
  // over the CTA.
  template <typename F>
  __device__ void ForEachToken(F&& f) const {
    const auto in_segment = [&](uint32_t slot_index, int, const PageLane& at, uint32_t position) {
      if (position >= task.first_position && position < task.end_position) {
        f(slot_index, at, position);
      }
    };
    if (uneven()) {
      const UnevenBlocks lanes[1] = {uneven_blocks()};
      ForEachLiveSlot(of.pool, of.layouts, lanes[0].count(), lanes, in_segment);
    } else {
      const EvenBlocks lanes[1] = {even_blocks()};
      ForEachLiveSlot(of.pool, of.layouts, task.block_count, lanes, in_segment);
    }
  }

 private:
  static __device__ uint32_t LaneOf(const ScoredLanes& lanes, uint32_t i) {
    return lanes.by_rank == nullptr ? i : lanes.by_rank[i];
  }
  __device__ EvenBlocks even_blocks() const { return {of.page_entries + task.first_page, lane}; }
  __device__ UnevenBlocks uneven_blocks() const {
    return {of.pool, of.page_entries + task.first_page, {of.tables + task.table}, lane};
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

// Calls run(lanes, their slots at most, scratch plan) for as many lanes at a time as there is
// scratch for, of bytes_of_lane(slots) each.
template <typename BytesOfLane, typename Run>
cudaError_t ForLanes(const AnnealParams& params, const AnnealTask* tasks, uint32_t count,
                     const BytesOfLane& bytes_of_lane, const Run& run) {
  ScoredLanes lanes(params, tasks, count);
  const uint32_t end = lanes.lane_count;
  const uint64_t room =
      params.scratch_bytes > kScratchLost ? params.scratch_bytes - kScratchLost : 0;
  for (; lanes.first_lane < end; lanes.first_lane += lanes.lane_count) {
    const uint32_t left = end - lanes.first_lane;
    const uint32_t slots = lanes.SlotsLeftMax(params.uneven.host_tables);
    if (slots == 0) return cudaSuccess;  // empty classes
    auto at_once = static_cast<uint32_t>(
        std::min<uint64_t>(room / bytes_of_lane(slots), std::min(left, kLanesMax)));
    if (at_once == 0) return cudaErrorInvalidValue;
    if (at_once < left && at_once > kLanesOfRound) at_once -= at_once % kLanesOfRound;
    // In equal parts, so that the last does not leave most of the device idle.
    lanes.lane_count = left / ((left + at_once - 1) / at_once);
    const cudaError_t error = run(lanes, slots, ScratchPlan(params.scratch, lanes.lane_count));
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace palimpsest::cuda::anneal
