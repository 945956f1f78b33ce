// SPDX-License-Identifier: Apache-2.0
// Where the blocks of a lane are, in device memory: one in every page, at the lane's own place, or,
// in an uneven sequence, dealt out in rounds (kernels/uneven_lanes.h).
#pragma once

#include <cstdint>

#include "kernels/cuda/step_tables.h"
#include "kernels/cuda/uneven_table.h"

namespace palimpsest::cuda {

struct LaneBlock {
  PageEntry entry = 0;
  uint32_t place = 0;  // in the page: whose block it would be in an even sequence
};

// Both kinds are called with a block's index, and have `entries`: of the pages of the class.
struct EvenBlocks {
  const PageEntry* entries = nullptr;
  uint32_t lane = 0;

  __device__ __forceinline__ LaneBlock operator()(uint32_t i) const { return {entries[i], lane}; }
};

struct UnevenBlocks {
  const PageEntry* entries = nullptr;
  UnevenTable table;
  uint32_t lanes = 0;
  uint32_t lane = 0;
  uint32_t rank = 0;

  // REQUIRES: DevicePool::lane_ranks.
  __device__ UnevenBlocks(const DevicePool& pool, const PageEntry* of_class, UnevenTable of,
                          uint32_t lane_index)
      : entries(of_class),
        table(of),
        lanes(static_cast<uint32_t>(pool.layers * pool.kv_heads)),
        lane(lane_index),
        rank(pool.lane_ranks[lane_index]) {}

  __device__ uint32_t count() const { return table.block_count(rank); }
  __device__ __forceinline__ LaneBlock operator()(uint32_t i) const {
    const UnevenTable::Place at = table.Find(lanes, lane, rank, i);
    return {entries[at.page], at.place};
  }
};

}  // namespace palimpsest::cuda
