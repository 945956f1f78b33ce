// SPDX-License-Identifier: Apache-2.0
// A warp takes the items that the warp of that number had in attend, so the work is cut evenly
// however many sequences there are. H2O: the item's own KV head and pages. LongFlow needs all KV
// heads of a page at once: the warp takes every kv_heads-th page of the item's, so that the items
// of the KV heads, which each cover all pages, share them out.
//
// Eight threads have a tile of the trace, two slots each, so a warp four tiles at a time. There is
// little to compute and much to wait for, so all layers of a launch are worked on at a time.
//
// Bytes of a slot and KV head: 2.25 for each of its query heads, which L2 has as a rule, and 4 of
// score, which H2O writes too.
#include "kernels/cuda/attend_tile.cuh"
#include "kernels/cuda/launch_order.cuh"
#include "kernels/cuda/page_lane.cuh"
#include "kernels/cuda/slot_scores.h"

namespace palimpsest::cuda {
namespace {

constexpr uint32_t kTileThreads = 8;
constexpr uint32_t kTilesAtOnce = 32 / kTileThreads;

// What two slots of a tile received from its queries.
template <int kPairs>
struct TracedSlots {
  uint2 words[kPairs];
  float2 references[kPairs], log_sums[kPairs];

  template <typename T>
  __device__ __forceinline__ static void LoadPairs(const T* from, T (&to)[kPairs]) {
    static_assert(sizeof(T) == 8 && kPairs % 2 == 0);
#pragma unroll
    for (int i = 0; i < kPairs; i += 2) {
      const uint4 x = __ldcg(reinterpret_cast<const uint4*>(from + i));
      memcpy(&to[i], &x, sizeof(x));
    }
  }
  // `pair`: the tile's row and column, as those of log_sums.
  __device__ __forceinline__ void Load(const AttendTrace& trace, uint32_t tile, uint32_t pair,
                                       uint32_t g) {
    const uint2* from = trace.tiles + size_t{tile} * kTileWords<kPairs>;
    LoadPairs(from + g * kPairs, words);
    LoadPairs(reinterpret_cast<const float2*>(from + 8 * kPairs), references);
    LoadPairs(trace.log_sums + size_t{pair} * kPairs, log_sums);
  }
  // Summed over the first `queries`.
  __device__ __forceinline__ float2 Sum(uint32_t queries) const {
    float2 sum = {};
    const auto add = [&](uint32_t query, float reference, float log_sum, float first,
                         float second) {
      const float factor = query < queries ? Exp2(-reference - log_sum) : 0.0f;
      sum.x = fmaf(first, factor, sum.x);
      sum.y = fmaf(second, factor, sum.y);
    };
#pragma unroll
    for (int t = 0; t < kPairs; ++t) {
      add(2 * t, references[t].x, log_sums[t].x, Low(words[t].x), Low(words[t].y));
      add(2 * t + 1, references[t].y, log_sums[t].y, High(words[t].x), High(words[t].y));
    }
    return sum;
  }
  __device__ static float Low(uint32_t pair) { return __uint_as_float(pair << 16); }
  __device__ static float High(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
};

template <int kPairs>
class SlotScoring {
 public:
  // Of the `which`-th layer of the work, and of the eviction.
  __device__ SlotScoring(const SlotScoreParams& params, uint32_t which)
      : p_(params),
        work_(params.layers[which]),
        kv_heads_(static_cast<uint32_t>(params.pool.kv_heads)),
        group_(static_cast<uint32_t>(params.pool.query_heads) / kv_heads_),
        columns_(kv_heads_ * work_.trace.blocks),
        lane_(threadIdx.x % 32),
        slot_(SlotOfRow(lane_ % kTileThreads)) {}

  // `index`: of the item in the step.
  __device__ void Run(const AttendItem& item, uint32_t index) const {
    // Items of further queries have the same pages.
    if (item.slot_use == SlotUse::kNone || item.first_query != 0) return;
    if (item.slot_use == SlotUse::kAddReceived) {
      if (work_.layer != kNoLayer) AddReceived(item);
      return;
    }
    if (work_.found_layer != kNoLayer) Evict(item, index);
    if (work_.layer != kNoLayer) FindLeast(item, index);
  }

 private:
  // What this thread's two slots of a page, which is one of the trace's, received in a column.
  __device__ __forceinline__ float2 Received(uint32_t column, uint32_t page, uint32_t row) const {
    TracedSlots<kPairs> traced;
    traced.Load(work_.trace, column * work_.trace.pages + page, row * columns_ + column,
                lane_ % kTileThreads);
    return traced.Sum(group_ - column % work_.trace.blocks * kTileQueries);
  }
  // The score of this thread's first slot of a page; that of its second lies 8 behind.
  __device__ float* ScoresOf(PageEntry entry, uint32_t lane) const {
    uint8_t* page = p_.pool.pages + PageOffsetOf(entry);
    const uint64_t offset = p_.layouts.of[FormatPairOf(entry)].scores_offset;
    return reinterpret_cast<float*>(page + offset) + lane * kSlotsPerPage + slot_;
  }

  __device__ void AddReceived(const AttendItem& item) const {
    const uint32_t lane = work_.layer * kv_heads_ + item.kv_head;
    const auto add = [&](float* scores, uint32_t page) {
      float first = scores[0], second = scores[8];
      for (uint32_t block = 0; block < work_.trace.blocks; ++block) {
        const float2 received = Received(item.kv_head * work_.trace.blocks + block, page, item.row);
        first += received.x, second += received.y;
      }
      scores[0] = first, scores[8] = second;
    };
#pragma unroll 2
    for (uint32_t i = lane_ / kTileThreads; i < item.page_count; i += kTilesAtOnce) {
      const uint32_t page = item.first_page + i;
      add(ScoresOf(p_.step.page_entries[page], lane), page - work_.trace.first_page);
    }
    if (item.with_open_group != 0 && lane_ < kTileThreads) {
      add(p_.pool.OpenScores(item.open_group, lane) + slot_, work_.trace.pages_max + item.row);
    }
  }

  // Finds the item's candidate.
  __device__ void FindLeast(const AttendItem& item, uint32_t index) const {
    EvictionCandidate least{.key = kNoCandidate};
    const uint32_t past = item.first_page % kv_heads_, end = item.first_page + item.page_count;
    uint32_t page = item.first_page + (item.kv_head + kv_heads_ - past) % kv_heads_;
    PageEntry entry = page < end ? p_.step.page_entries[page] : 0;
    while (page < end) {
      const PageLane of(p_.pool, p_.layouts, entry, work_.layer * kv_heads_);
      const uint32_t live = of.live();
      const uint32_t positions[2] = {of.position(slot_), of.position(slot_ + 8)};
      const uint32_t next = page + kv_heads_;
      const PageEntry next_entry = next < end ? p_.step.page_entries[next] : 0;
      float2 sum = Value(entry, page, item.row);
#pragma unroll
      for (uint32_t step = kTileThreads; step < 32; step *= 2) {
        sum.x += __shfl_xor_sync(~0u, sum.x, step);
        sum.y += __shfl_xor_sync(~0u, sum.y, step);
      }
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        const uint32_t slot = slot_ + 8 * i;
        if ((live >> slot & 1) == 0 || positions[i] < item.evict_from) continue;
        const uint64_t bits = __float_as_uint(i == 0 ? sum.x : sum.y);
        const uint64_t key = bits << 32 | positions[i];
        if (key < least.key) least = {.key = key, .place = page * kSlotsPerPage + slot};
      }
      page = next;
      entry = next_entry;
    }
    Tell(item, index, least);
  }

  // This thread's share, every kTilesAtOnce-th column, of what its two slots of a page are worth.
  __device__ __forceinline__ float2 Value(PageEntry entry, uint32_t page, uint32_t row) const {
    float2 value = {};
#pragma unroll 2
    for (uint32_t column = lane_ / kTileThreads; column < columns_; column += kTilesAtOnce) {
      const float* norms = ScoresOf(entry, work_.layer * kv_heads_ + column / work_.trace.blocks);
      const float2 received = Received(column, page - work_.trace.first_page, row);
      value.x = fmaf(received.x, norms[0], value.x);
      value.y = fmaf(received.y, norms[8], value.y);
    }
    return value;
  }

  __device__ void Tell(const AttendItem& item, uint32_t index, EvictionCandidate least) const {
#pragma unroll
    for (uint32_t step = 1; step < kTileThreads; step *= 2) {
      const uint64_t key = __shfl_xor_sync(~0u, least.key, step);
      const uint32_t place = __shfl_xor_sync(~0u, least.place, step);
      if (key < least.key) least = {.key = key, .place = place};
    }
    if (lane_ != 0) return;
    work_.found.candidates[index] = least;
    if (least.key != kNoCandidate) atomicMin(work_.found.least + item.row, least.key);
  }

  // Evicts the sequence's least token of the layer before if this item has it. Nobody else then
  // finds that it has, also not after the least key was taken back.
  __device__ void Evict(const AttendItem& item, uint32_t index) const {
    const EvictionCandidate own = work_.found_before.candidates[index];
    volatile unsigned long long* least = work_.found_before.least + item.row;
    if (own.key == kNoCandidate || own.key != *least) return;
    __syncwarp();
    if (lane_ == 0) *least = kNoCandidate;
    const PageEntry entry = p_.step.page_entries[own.place / kSlotsPerPage];
    for (uint32_t head = lane_; head < kv_heads_; head += 32) {
      PageLane(p_.pool, p_.layouts, entry, work_.found_layer * kv_heads_ + head)
          .ClearLive(own.place % kSlotsPerPage);
    }
  }

  const SlotScoreParams& p_;
  const SlotWork& work_;
  const uint32_t kv_heads_;
  const uint32_t group_;    // query heads of a KV head
  const uint32_t columns_;  // tiles of a page
  const uint32_t lane_;
  const uint32_t slot_;  // the first of this thread's two
};

// Rows of CTAs: layers.
template <int kPairs>
__global__ void __launch_bounds__(kAttendWarps * 32, kPairs == 2 ? 3 : 2)
    SlotScoreKernel(const __grid_constant__ SlotScoreParams params) {
  AllowSuccessor();
  const uint32_t stretch = blockIdx.x * kAttendWarps + threadIdx.x / 32;
  const uint32_t begin = params.step.first_item[stretch];
  const uint32_t end = params.step.first_item[stretch + 1];
  const uint32_t first = params.step.first_item[0];
  WaitForPredecessor();
  const SlotScoring<kPairs> scoring(params, blockIdx.y);
  for (uint32_t i = begin; i < end; ++i) scoring.Run(params.step.items[i], i - first);
}

}  // namespace

cudaError_t LaunchSlotScores(const SlotScoreParams& params, const AttendGeometry& geometry,
                             cudaStream_t stream) {
  const dim3 grid(geometry.cta_count, kScoredTogether);
  const auto kernel = params.layers[0].trace.pairs == 2 ? SlotScoreKernel<2> : SlotScoreKernel<4>;
  return LaunchEarly(kernel, grid, kAttendWarps * 32, 0, params, stream);
}

}  // namespace palimpsest::cuda
