// SPDX-License-Identifier: Apache-2.0
// What the kernels of anneal_anticipated.cu share.
//
// Lanes are scored in blocks of 256 slots, a CTA each: four warpgroups of 64 slots, whose keys stay
// in registers while the codebook streams past. A slot's row of a book is its index in the class.
#pragma once

#include "kernels/cuda/column_stream.cuh"
#include "kernels/cuda/scored_lanes.cuh"

namespace palimpsest::cuda::anneal {

inline constexpr uint32_t kBlockWarps = 16;
inline constexpr uint32_t kBlockThreads = kBlockWarps * 32;
inline constexpr uint32_t kWarpRows = 16;
inline constexpr uint32_t kGroupRows = 64;  // of four warps, which multiply together
inline constexpr uint32_t kBlockRows = kBlockWarps * kWarpRows;

struct AnticipatedLaunch {
  ScoredLanes lanes;
  CodebookOnDevice codebook;
  bool rotate_keys = false;
  float scale = 0.0f;  // what keys are multiplied with, so that logits have base 2

  // Scratch, an element or row for each lane.
  uint32_t rows = 0;          // a multiple of kGroupRows: bounds the slots of a task's class
  uint32_t blocks = 0;        // of that many rows
  uint8_t* keys = nullptr;    // books of `rows`: keys turned back to position 0, bf16
  float* sums = nullptr;      // [blocks][queries_room] log2 of the sum of exp2(logit) over a block
  float* log_sums = nullptr;  // [queries_room] the same over the lane; infinite where no query is
  float* scores = nullptr;    // [rows] log2 of the largest probability
};

// One block of a lane, as the warps of its CTA see it.
struct LaneBlock {
  ScoredLane lane;
  uint32_t block;
  uint32_t warps;  // that have rows: a multiple of four
  uint32_t row;    // this warp's first

  __device__ LaneBlock(const AnticipatedLaunch& launch)
      : lane(launch.lanes, blockIdx.y),
        block(blockIdx.x),
        row(block * kBlockRows + threadIdx.x / 32 * kWarpRows) {
    const uint32_t begin = block * kBlockRows, slots = lane.slots();
    const uint32_t left = slots > begin ? slots - begin : 0;
    warps = min((left + kGroupRows - 1) / kGroupRows * 4, kBlockWarps);
  }
  // Is there anything to do for this warp?
  __device__ bool mine() const { return threadIdx.x / 32 < warps; }
};

}  // namespace palimpsest::cuda::anneal
