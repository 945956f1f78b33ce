// SPDX-License-Identifier: Apache-2.0
// What a warp of attend leaves behind for slot_scores.h: the tiles of an item one behind the other.
#pragma once

#include <cstdint>

#include "kernels/cuda/attend_plan.h"
#include "kernels/cuda/attend_tile.cuh"
#include "kernels/cuda/slot_work.h"

namespace palimpsest::cuda {

template <int kPairs>
class TraceWriter {
 public:
  __device__ TraceWriter(const AttendTrace& trace, int kv_heads)
      : trace_(trace), columns_(kv_heads * trace.blocks), lane_(threadIdx.x % 32) {}

  // The next tile to write is that of the item's first page.
  __device__ void BeginPages(const AttendItem& item) {
    Begin(item, item.first_page - trace_.first_page);
  }
  __device__ void BeginOpenGroup(const AttendItem& item) {
    Begin(item, trace_.pages_max + item.row);
  }

  // The next tile: words as thread (g, t) has them, and -log2 of what they are relative to.
  __device__ __forceinline__ void Write(const uint32_t (&p)[2], float reference0,
                                        float reference1) {
    if (traced_) {
      next_[0] = make_uint2(p[0], p[1]);
      if (lane_ < 4) {
        next_[8 * kPairs] = make_uint2(__float_as_uint(reference0), __float_as_uint(reference1));
      }
    }
    next_ += kTileWords<kPairs>;
  }

  // Of the whole pair.
  __device__ void WriteSums(const AttendItem& item, const float (&max)[2],
                            const float (&sum)[2]) const {
    if (!traced_ || lane_ >= 4) return;
    const uint32_t pair = item.row * columns_ + Column(item);
    trace_.log_sums[pair * kPairs + lane_] =
        make_float2(max[0] + log2f(sum[0]), max[1] + log2f(sum[1]));
  }

 private:
  __device__ uint32_t Column(const AttendItem& item) const {
    return item.kv_head * trace_.blocks + item.first_query / kTileQueries;
  }
  __device__ void Begin(const AttendItem& item, uint32_t page) {
    const uint32_t g = lane_ / 4, t = lane_ % 4;
    traced_ = item.slot_use != SlotUse::kNone && t < uint32_t{kPairs};
    next_ = trace_.tiles + (size_t{Column(item)} * trace_.pages + page) * kTileWords<kPairs> +
            g * kPairs + t;
  }

  const AttendTrace& trace_;
  const uint32_t columns_;
  const uint32_t lane_;
  bool traced_ = false;    // does this thread leave anything?
  uint2* next_ = nullptr;  // its part of the next tile
};

// Of an attend that is not traced.
template <>
class TraceWriter<0> {
 public:
  __device__ TraceWriter(const AttendTrace&, int) {}
};

}  // namespace palimpsest::cuda
