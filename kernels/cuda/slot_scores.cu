// SPDX-License-Identifier: Apache-2.0
// A warp takes the items that the warp of that number had in attend, so the work is cut evenly
// however many sequences there are. H2O: the item's own KV head and pages. LongFlow needs all KV
// heads of a page at once: the warp takes every kv_heads-th page of the item's, so that the items
// of the KV heads, which each cover all pages, share them out.
//
// Eight threads have a page of one KV head, two slots each.
#include "kernels/cuda/dequantise.cuh"
#include "kernels/cuda/launch_order.cuh"
#include "kernels/cuda/page_lane.cuh"
#include "kernels/cuda/slot_scores.h"

namespace palimpsest::cuda {
namespace {

constexpr uint32_t kQueriesOfBlock = 8;  // attend's
constexpr uint32_t kPageThreads = kSlotsPerPage / 2;
constexpr uint32_t kPagesAtOnce = 32 / kPageThreads;

__device__ float Low(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ float High(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

template <int kCount>
__device__ __forceinline__ void LoadFloats(const float* from, float (&x)[kCount]) {
  uint32_t words[kCount];
  LoadWords<kCount>(reinterpret_cast<const uint8_t*>(from), words);
#pragma unroll
  for (int i = 0; i < kCount; ++i) x[i] = __uint_as_float(words[i]);
}

template <int kPairs>
class SlotScorer {
 public:
  __device__ explicit SlotScorer(const SlotScoreParams& params)
      : p_(params),
        kv_heads_(static_cast<uint32_t>(params.pool.kv_heads)),
        group_(static_cast<uint32_t>(params.pool.query_heads) / kv_heads_),
        lane_(threadIdx.x % 32) {}

  __device__ void Run(const AttendItem& item, uint32_t index) {
    // Items of further queries have the same pages.
    if (item.slot_use == SlotUse::kNone || item.first_query != 0) return;
    if (item.slot_use == SlotUse::kEvict && p_.found_layer != kNoLayer) Evict(item, index);
    if (p_.layer == kNoLayer) return;
    if (item.slot_use == SlotUse::kEvict) {
      FindLeast(item, index);
    } else {
      AddReceived(item);
    }
  }

 private:
  static constexpr int kQueries = 2 * kPairs;

  // What this thread's two slots of a page (AttendTrace) received from the queries of `head`.
  __device__ __forceinline__ float2 Received(uint32_t page, uint32_t head, uint32_t row) const {
    const AttendTrace& trace = p_.trace;
    float2 sum = {};
    for (uint32_t block = 0; block < trace.blocks; ++block) {
      const size_t tile = (size_t{page} * kv_heads_ + head) * trace.blocks + block;
      const size_t pair = (size_t{row} * kv_heads_ + head) * trace.blocks + block;
      uint32_t first[kPairs], second[kPairs];
      float references[kQueries], log_sums[kQueries];
      const uint32_t* probabilities =
          trace.probabilities + (tile * kSlotsPerPage + lane_ % kPageThreads * 2) * kPairs;
      LoadWords<kPairs>(reinterpret_cast<const uint8_t*>(probabilities), first);
      LoadWords<kPairs>(reinterpret_cast<const uint8_t*>(probabilities + kPairs), second);
      LoadFloats(trace.references + tile * kQueries, references);
      LoadFloats(trace.log_sums + pair * kQueries, log_sums);
#pragma unroll
      for (uint32_t q = 0; q < kQueries; ++q) {
        if (block * kQueriesOfBlock + q >= group_) break;
        const float factor = Exp2(references[q] - log_sums[q]);
        sum.x = fmaf(q % 2 == 0 ? Low(first[q / 2]) : High(first[q / 2]), factor, sum.x);
        sum.y = fmaf(q % 2 == 0 ? Low(second[q / 2]) : High(second[q / 2]), factor, sum.y);
      }
    }
    return sum;
  }

  // The scores of this thread's two slots.
  __device__ float2* Scores(PageEntry entry, uint32_t head) const {
    const uint32_t lane = p_.layer * kv_heads_ + head;
    auto* of_page = reinterpret_cast<float2*>(p_.pool.pages + PageOffsetOf(entry) +
                                              p_.layouts.of[FormatPairOf(entry)].scores_offset);
    return of_page + lane * kPageThreads + lane_ % kPageThreads;
  }

  __device__ void AddReceived(const AttendItem& item) const {
    const auto add = [&](float2* scores, uint32_t page) {
      const float2 received = Received(page, item.kv_head, item.row);
      const float2 before = *scores;
      *scores = make_float2(before.x + received.x, before.y + received.y);
    };
    for (uint32_t i = lane_ / kPageThreads; i < item.page_count; i += kPagesAtOnce) {
      const uint32_t page = item.first_page + i;
      add(Scores(p_.step.page_entries[page], item.kv_head), page - p_.trace.first_page);
    }
    if (item.with_open_group != 0 && lane_ < kPageThreads) {
      float* open = p_.pool.OpenScores(item.open_group, p_.layer * kv_heads_ + item.kv_head);
      add(reinterpret_cast<float2*>(open) + lane_, p_.trace.pages_max + item.row);
    }
  }

  __device__ void FindLeast(const AttendItem& item, uint32_t index) const {
    EvictionCandidate least{.key = kNoCandidate};
    const uint32_t past = item.first_page % kv_heads_, end = item.first_page + item.page_count;
    const uint32_t ahead = (item.kv_head + kv_heads_ - past) % kv_heads_;
    for (uint32_t page = item.first_page + ahead; page < end; page += kv_heads_) {
      const PageEntry entry = p_.step.page_entries[page];
      float2 sum = {};
      for (uint32_t head = lane_ / kPageThreads; head < kv_heads_; head += kPagesAtOnce) {
        const float2 norm = *Scores(entry, head);
        const float2 received = Received(page - p_.trace.first_page, head, item.row);
        sum.x = fmaf(received.x, norm.x, sum.x);
        sum.y = fmaf(received.y, norm.y, sum.y);
      }
#pragma unroll
      for (uint32_t step = kPageThreads; step < 32; step *= 2) {
        sum.x += __shfl_xor_sync(~0u, sum.x, step);
        sum.y += __shfl_xor_sync(~0u, sum.y, step);
      }
      const PageLane of(p_.pool, p_.layouts, entry, p_.layer * kv_heads_);
      const uint32_t live = of.live();
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        const uint32_t slot = lane_ % kPageThreads * 2 + i, position = of.position(slot);
        if ((live >> slot & 1) == 0 || position < item.evict_from) continue;
        const uint64_t bits = __float_as_uint(i == 0 ? sum.x : sum.y);
        const uint64_t key = bits << 32 | position;
        if (key < least.key) least = {.key = key, .place = page * kSlotsPerPage + slot};
      }
    }
#pragma unroll
    for (uint32_t step = 1; step < kPageThreads; step *= 2) {
      const uint64_t key = __shfl_xor_sync(~0u, least.key, step);
      const uint32_t place = __shfl_xor_sync(~0u, least.place, step);
      if (key < least.key) least = {.key = key, .place = place};
    }
    if (lane_ == 0) {
      p_.found.candidates[index] = least;
      if (least.key != kNoCandidate) atomicMin(p_.found.least + item.row, least.key);
    }
  }

  // Evicts the sequence's least token of the layer before if this item has it. Nobody else then
  // finds that it has, also not after the least key was taken back.
  __device__ void Evict(const AttendItem& item, uint32_t index) const {
    const EvictionCandidate own = p_.found_before.candidates[index];
    unsigned long long* least = p_.found_before.least + item.row;
    if (own.key == kNoCandidate || own.key != *least) return;
    __syncwarp();
    if (lane_ == 0) *least = kNoCandidate;
    const PageEntry entry = p_.step.page_entries[own.place / kSlotsPerPage];
    for (uint32_t head = lane_; head < kv_heads_; head += 32) {
      PageLane(p_.pool, p_.layouts, entry, p_.found_layer * kv_heads_ + head)
          .ClearLive(own.place % kSlotsPerPage);
    }
  }

  const SlotScoreParams& p_;
  const uint32_t kv_heads_;
  const uint32_t group_;  // query heads of a KV head
  const uint32_t lane_;
};

template <int kPairs>
__global__ void __launch_bounds__(1024)
    SlotScoreKernel(const __grid_constant__ SlotScoreParams params) {
  AllowSuccessor();
  const uint32_t stretch = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
  const uint32_t begin = params.step.first_item[stretch];
  const uint32_t end = params.step.first_item[stretch + 1];
  const uint32_t first = params.step.first_item[0];
  WaitForPredecessor();
  SlotScorer<kPairs> scorer(params);
  for (uint32_t i = begin; i < end; ++i) scorer.Run(params.step.items[i], i - first);
}

}  // namespace

cudaError_t LaunchSlotScores(const SlotScoreParams& params, const AttendGeometry& geometry,
                             cudaStream_t stream) {
  const auto kernel = params.trace.pairs == 1   ? SlotScoreKernel<1>
                      : params.trace.pairs == 2 ? SlotScoreKernel<2>
                                                : SlotScoreKernel<4>;
  return LaunchEarly(kernel, geometry.cta_count, geometry.warps_per_cta * 32, 0, params, stream);
}

}  // namespace palimpsest::cuda
