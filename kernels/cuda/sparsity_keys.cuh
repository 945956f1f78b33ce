// SPDX-License-Identifier: Apache-2.0
// Sparsity, first phase: the logit of every live key, the largest over the query heads of its
// group, with the key's position. Logits by tensor cores: a page's 16 slots are the rows, the query
// heads the columns.
#pragma once

#include "kernels/cuda/page_lane.cuh"
#include "kernels/cuda/sparsity.h"
#include "kernels/cuda/tensor_core.cuh"

namespace palimpsest::cuda::sparsity {

inline constexpr uint32_t kThreads = 256;
inline constexpr uint32_t kWarps = kThreads / 32;
inline constexpr uint32_t kWantedMax = 256;  // sequences of a launch
inline constexpr int kTileHeads = 8;         // columns of a matrix instruction
// Queries in shared memory: 16 bytes behind each keep the rows of a tile off each other's banks.
inline constexpr int kQueryPadding = 16;

// A key as the last CTA of a head finds it.
struct Key {
  uint32_t position = 0;
  float logit = 0.0f;
};
inline constexpr uint32_t kDead = ~uint32_t{0};  // the position of a dead slot

struct HeadSummary {
  float sum = 0.0f;  // of exp(logit - largest logit)
  uint32_t keys = 0;
};

struct SparsityLaunch {
  SparsityParams params;
  uint32_t wanted[kWantedMax] = {};
  uint32_t slots = 0;          // of scratch, for each head of each sequence
  uint32_t units_per_cta = 0;  // pages; the open group is one more
};
// Scratch is three arrays: keys, keys' exponentials by position, summaries.
inline constexpr uint64_t kSlotBytes = sizeof(Key) + sizeof(float);

// One KV head of one wanted sequence, and its part of scratch.
struct Head {
  const SparsityLaunch& launch;
  StepSequence sequence;
  uint32_t lane = 0;          // layer * kv_heads + kv_head
  Key* keys = nullptr;        // [slots] in the order of the block table, the open group last
  float* in_order = nullptr;  // [slots] exp(logit - largest) by position
  HeadSummary* summary = nullptr;

  __device__ Head(const SparsityLaunch& l, uint32_t index, uint32_t kv_head)
      : launch(l),
        sequence(l.params.sequences[l.wanted[index]]),
        lane(l.params.layer * l.params.pool.kv_heads + kv_head) {
    const size_t heads = size_t{gridDim.z} * l.params.pool.kv_heads;
    const size_t at = size_t{index} * l.params.pool.kv_heads + kv_head;
    auto* all_keys = static_cast<Key*>(l.params.scratch);
    auto* all_in_order = reinterpret_cast<float*>(all_keys + heads * l.slots);
    keys = all_keys + at * l.slots;
    in_order = all_in_order + at * l.slots;
    summary = reinterpret_cast<HeadSummary*>(all_in_order + heads * l.slots) + at;
  }

  __device__ uint32_t pages() const { return sequence.page_count; }
  __device__ const uint8_t* open_keys() const {
    return launch.params.pool.OpenLane(sequence.open_group, lane);
  }
};

// 16 slots of a head: a page, or the open group. Each thread knows the position of one slot: 8 t +
// g for thread (g, t), t < 2.
struct Unit {
  const uint8_t* data = nullptr;
  const uint8_t* scales = nullptr;
  Format format = Format::kBf16;
  uint32_t live = 0;
  uint32_t position = 0;

  __device__ Unit(const Head& head, uint32_t index) {
    const SparsityParams& p = head.launch.params;
    const uint32_t slot = threadIdx.x % 2 * 8 + threadIdx.x % 32 / 4;
    const StepSequence& sequence = head.sequence;
    if (index >= head.pages()) {
      data = head.open_keys();
      live = index > head.pages() ? 0 : (1u << (sequence.open_count + sequence.row_count)) - 1;
      position = sequence.open_position + slot;
      return;
    }
    const PageEntry entry = p.page_entries[sequence.first_page + index];
    const PageLane lane(p.pool, p.layouts, entry, head.lane);
    data = lane.k_data();
    scales = lane.k_scales();
    format = FormatsOf(entry).k;
    live = lane.live();
    position = lane.position(slot);
  }
};

// Copies the group's queries, padded with zeros to whole tiles of heads.
__device__ inline void LoadQueries(const Head& head, uint32_t kv_head, uint8_t* queries) {
  const SparsityParams& p = head.launch.params;
  const uint32_t group = p.pool.query_heads / p.pool.kv_heads;
  const uint32_t pieces = p.pool.head_dim / 8;  // of 16 bytes
  const uint32_t row = head.sequence.row + head.sequence.row_count - 1;
  const auto* from = static_cast<const uint4*>(p.q) +
                     (size_t{row} * p.pool.query_heads + kv_head * group) * pieces;
  const uint32_t padded = (group + kTileHeads - 1) / kTileHeads * kTileHeads;
  for (uint32_t i = threadIdx.x; i < padded * pieces; i += kThreads) {
    uint8_t* to = queries + i / pieces * (pieces * 16 + kQueryPadding) + i % pieces * 16;
    *reinterpret_cast<uint4*>(to) = i < group * pieces ? from[i] : make_uint4(0, 0, 0, 0);
  }
  __syncthreads();
}

// Keys of a unit, by one warp: the largest logit over the group's heads. Thread (g, t) holds blocks
// t, t + 4, ... of slots g and g + 8; which channels meet in one instruction does not matter as
// long as the queries' are the same.
template <Format kFormat, int kBlocks>
__device__ void UnitKeys(const Unit& unit, const SparsityLaunch& launch, const uint8_t* queries,
                         Key* keys) {
  const uint32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const DevicePool& pool = launch.params.pool;
  const uint32_t blocks = pool.head_dim / kChannelsPerScale;
  KeyBlock<kFormat> low[kBlocks], high[kBlocks];
#pragma unroll
  for (int i = 0; i < kBlocks; ++i) {
    const uint32_t block = 4 * i + t;
    if (block >= blocks) continue;
    if (unit.live >> g & 1) low[i].Load(unit.data, unit.scales, g * blocks + block);
    if (unit.live >> (g + 8) & 1) high[i].Load(unit.data, unit.scales, (g + 8) * blocks + block);
  }
#pragma unroll
  for (int i = 0; i < kBlocks; ++i) {
    low[i].PrepareScale();
    high[i].PrepareScale();
  }
  const float scale = launch.params.scale * PowerOfTwo(FactorExponent<kFormat>());
  const uint32_t group = pool.query_heads / pool.kv_heads;
  const uint32_t row_bytes = pool.head_dim * 2 + kQueryPadding;
  float largest[2] = {-INFINITY, -INFINITY};
  for (uint32_t first = 0; first < group; first += kTileHeads) {
    float dots[4] = {};
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) {
      const uint32_t block = min(4 * i + t, blocks - 1);  // past the end keys are zeros
      uint32_t q[8];
      LoadWords<8>(queries + (first + g) * row_bytes + block * (kChannelsPerScale * 2), q);
#pragma unroll
      for (int j = 0; j < 8; j += 2) {
        MultiplyAdd(dots, low[i].Pair(j), high[i].Pair(j), low[i].Pair(j + 1), high[i].Pair(j + 1),
                    q[j], q[j + 1]);
      }
    }
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      if (first + 2 * t + column >= group) continue;
      largest[0] = fmaxf(largest[0], dots[column] * scale);
      largest[1] = fmaxf(largest[1], dots[2 + column] * scale);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    largest[half] = fmaxf(largest[half], __shfl_xor_sync(~0u, largest[half], 1));
    largest[half] = fmaxf(largest[half], __shfl_xor_sync(~0u, largest[half], 2));
  }
  if (t > 1) return;
  const uint32_t slot = 8 * t + g;
  keys[slot] = {(unit.live >> slot & 1) != 0 ? unit.position : kDead, largest[t]};
}

// Keys of this CTA's units of the head. Each warp fetches a unit's table entries ahead.
template <int kBlocks>
__device__ void FindKeys(const Head& head, uint32_t kv_head, uint8_t* queries) {
  const SparsityLaunch& launch = head.launch;
  const uint32_t first = blockIdx.x * launch.units_per_cta + threadIdx.x / 32;
  const uint32_t end = min((blockIdx.x + 1) * launch.units_per_cta, head.pages() + 1);
  Unit next(head, first);
  LoadQueries(head, kv_head, queries);
  for (uint32_t i = first; i < end; i += kWarps) {
    const Unit unit = next;
    next = Unit(head, i + kWarps);
    Key* keys = head.keys + i * kSlotsPerPage;
    WithFormat(unit.format,
               [&]<Format kFormat>() { UnitKeys<kFormat, kBlocks>(unit, launch, queries, keys); });
  }
}

}  // namespace palimpsest::cuda::sparsity
