// SPDX-License-Identifier: Apache-2.0
// What the kernels of anneal_kmeans.cu share: the tasks of a launch and where its scratch lies.
//
// A problem is one layer of one task. Its tokens are clustered over all KV heads side by side where
// these hold the same positions, else head by head. Not for uneven sequences.
#pragma once

#include <cstdint>

#include "kernels/cuda/anneal_kinds.h"
#include "kernels/cuda/page_lane.cuh"

namespace palimpsest::cuda::anneal {

struct AnnealLaunch {
  DevicePool pool;
  DeviceLayouts layouts;
  const PageEntry* page_entries = nullptr;
  AnnealTask tasks[kTasksMax] = {};
  uint32_t first_problem = 0;  // of the launch; problem p is layer p % layers of task p / layers

  // Scratch, an element or row for each problem of the launch:
  uint32_t tokens_max = 0;      // bounds the tokens of any lane
  uint32_t keep_max = 0;        // and what is kept of them
  uint32_t* counts = nullptr;   // [kv_heads] tokens of the lane
  uint32_t* agrees = nullptr;   // [kv_heads] 1: holds the positions that head 0 holds
  SlotPlace* places = nullptr;  // [kv_heads][tokens_max] in order of position
  double* products = nullptr;   // [tokens_max][tokens_max] see anneal_products.cuh
  double* rows = nullptr;       // [keep_max][tokens_max] where shared memory is too small for them
  uint32_t product_tiles = 0;   // of a problem
};

// One problem, by its index in the launch.
struct Problem {
  const AnnealLaunch& launch;
  const AnnealTask& task;
  uint32_t index = 0;
  uint32_t layer = 0;

  __device__ Problem(const AnnealLaunch& l, uint32_t problem_index)
      : launch(l),
        task(l.tasks[(l.first_problem + problem_index) / l.pool.layers]),
        index(problem_index),
        layer((l.first_problem + problem_index) % l.pool.layers) {}

  __device__ uint32_t kv_heads() const { return launch.pool.kv_heads; }
  __device__ uint32_t lane(uint32_t kv_head) const { return layer * kv_heads() + kv_head; }
  // All pages of a class have one.
  __device__ uint32_t format_pair() const {
    return FormatPairOf(launch.page_entries[task.first_page]);
  }

  __device__ uint32_t& count(uint32_t kv_head) const {
    return launch.counts[size_t{index} * kv_heads() + kv_head];
  }
  __device__ uint32_t& agrees(uint32_t kv_head) const {
    return launch.agrees[size_t{index} * kv_heads() + kv_head];
  }
  __device__ SlotPlace* places(uint32_t kv_head) const {
    return launch.places + (size_t{index} * kv_heads() + kv_head) * launch.tokens_max;
  }
  __device__ double* products() const {
    return launch.products + size_t{index} * launch.tokens_max * launch.tokens_max;
  }
  __device__ double* rows() const {
    return launch.rows + size_t{index} * launch.keep_max * launch.tokens_max;
  }
  // For a whole warp: whether all heads hold the same positions.
  __device__ bool HeadsAgree() const {
    bool agree = true;
    for (uint32_t h = threadIdx.x % 32; h < kv_heads(); h += 32) agree = agree && agrees(h) != 0;
    return __all_sync(~0u, agree);
  }

  // f(index of the slot, which of the heads, lane of its page, position) for every live token of
  // the segment in these heads.
  template <int kHeads, typename F>
  __device__ void ForEachToken(const uint32_t (&kv_heads)[kHeads], F&& f) const {
    EvenBlocks lanes[kHeads];
#pragma unroll
    for (int i = 0; i < kHeads; ++i) {
      lanes[i] = {launch.page_entries + task.first_page, lane(kv_heads[i])};
    }
    ForEachLiveSlot(launch.pool, launch.layouts, task.block_count, lanes,
                    [&](uint32_t slot_index, int which, const PageLane& of, uint32_t position) {
                      if (position >= task.first_position && position < task.end_position) {
                        f(slot_index, which, of, position);
                      }
                    });
  }
  // The same for one head: f(index of the slot, lane of its page, position).
  template <typename F>
  __device__ void ForEachToken(uint32_t kv_head, F&& f) const {
    ForEachToken<1>({kv_head}, [&](uint32_t slot_index, int, const PageLane& of,
                                   uint32_t position) { f(slot_index, of, position); });
  }
};

}  // namespace palimpsest::cuda::anneal
