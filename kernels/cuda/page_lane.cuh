// SPDX-License-Identifier: Apache-2.0
// One block of a page in device memory, which is a lane's (layer, KV head): live mask, positions,
// keys.
#pragma once

#include <cstdint>

#include "kernels/cuda/dequantise.cuh"
#include "kernels/cuda/lane_blocks.cuh"
#include "kernels/cuda/step_tables.h"

namespace palimpsest::cuda {

__device__ __forceinline__ uint64_t PageOffsetOf(PageEntry entry) {
  return entry & ~PageEntry{kFormatPairs - 1};
}
__device__ __forceinline__ uint32_t FormatPairOf(PageEntry entry) {
  return static_cast<uint32_t>(entry % kFormatPairs);
}

struct PageLane {
  uint8_t* page = nullptr;
  const DeviceLayout* layout = nullptr;
  uint32_t place = 0;  // layer * kv_heads + kv_head; LaneBlock::place of uneven sequences

  __device__ PageLane(const DevicePool& pool, const DeviceLayouts& layouts, PageEntry entry,
                      uint32_t place_index)
      : page(pool.pages + PageOffsetOf(entry)),
        layout(&layouts.of[FormatPairOf(entry)]),
        place(place_index) {}

  __device__ const uint8_t* k_data() const { return page + size_t{place} * layout->lane_bytes; }
  __device__ const uint8_t* k_scales() const { return k_data() + layout->k_scales_offset; }

  __device__ const uint8_t* v_data() const { return k_data() + layout->v_data_offset; }
  __device__ const uint8_t* v_scales() const { return k_data() + layout->v_scales_offset; }

  // Read as it is now: another CTA may be clearing bits that this one does not look at.
  __device__ uint32_t live() const {
    return *reinterpret_cast<const volatile uint16_t*>(page + layout->masks_offset + place * 2);
  }
  __device__ uint32_t position(uint32_t slot) const {
    return reinterpret_cast<const uint32_t*>(
        page + layout->positions_offset)[place * kSlotsPerPage + slot];
  }
  // REQUIRES: CacheShape::slot_scores.
  __device__ float score(uint32_t slot) const {
    return reinterpret_cast<const float*>(page +
                                          layout->scores_offset)[place * kSlotsPerPage + slot];
  }
  // Two blocks' masks share a word; the word is in the page, which is padded to 16 bytes.
  __device__ void ClearLive(uint32_t slot) const {
    uint8_t* mask = page + layout->masks_offset + place * 2;
    const auto shift = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(mask) % 4 * 8);
    atomicAnd(reinterpret_cast<uint32_t*>(mask - shift / 8), ~(1u << (shift + slot)));
  }
};

// Calls f(i, which, lane of the page, position) for every live slot of the first block_count blocks
// of lanes[which] (lane_blocks.cuh), spread over the CTA; i = 16 * index of the block + slot. Each
// thread has a few slots under way at a time.
template <int kLanes, typename Blocks, typename F>
__device__ __forceinline__ void ForEachLiveSlot(const DevicePool& pool,
                                                const DeviceLayouts& layouts, uint32_t block_count,
                                                const Blocks (&lanes)[kLanes], F&& f) {
  constexpr int kBatch = 4;
  const uint32_t slots = block_count * kSlotsPerPage;
  for (uint32_t first = threadIdx.x; first < slots; first += kBatch * blockDim.x) {
    LaneBlock block[kBatch][kLanes];
    uint32_t live[kBatch][kLanes], position[kBatch][kLanes];
#pragma unroll
    for (int k = 0; k < kBatch * kLanes; ++k) {
      const uint32_t i = first + k / kLanes * blockDim.x;
      block[k / kLanes][k % kLanes] = lanes[k % kLanes](min(i, slots - 1) / kSlotsPerPage);
    }
#pragma unroll
    for (int k = 0; k < kBatch * kLanes; ++k) {
      const uint32_t i = first + k / kLanes * blockDim.x;
      const LaneBlock& at = block[k / kLanes][k % kLanes];
      const PageLane of(pool, layouts, at.entry, at.place);
      live[k / kLanes][k % kLanes] = i < slots ? of.live() >> (i % kSlotsPerPage) & 1 : 0;
      position[k / kLanes][k % kLanes] = of.position(i % kSlotsPerPage);
    }
#pragma unroll
    for (int k = 0; k < kBatch * kLanes; ++k) {
      const LaneBlock& at = block[k / kLanes][k % kLanes];
      const PageLane of(pool, layouts, at.entry, at.place);
      const uint32_t i = first + k / kLanes * blockDim.x;
      if (live[k / kLanes][k % kLanes] != 0) f(i, k % kLanes, of, position[k / kLanes][k % kLanes]);
    }
  }
}

// 16 channels of one slot's K (or V, which lies alike), one scale block, as loaded. Pair(i) is
// channels 2i and 2i + 1 as bf16, times 2^-FactorExponent(kFormat). Zeros until it is loaded.
template <Format kFormat>
struct KeyBlock {
  static constexpr int kWords = BitsPerElement(kFormat) / 2;
  static constexpr int kPairsPerWord = 8 / kWords;

  uint32_t words[kWords] = {};
  uint32_t scales = 0;  // twice

  __device__ void Load(const uint8_t* data, const uint8_t* scale_bytes, uint32_t index) {
    LoadWords<kWords>(data + size_t{index} * (kWords * 4), words);
    if constexpr (HasScales(kFormat)) scales = scale_bytes[index];
  }
  // After Load, once the bytes are wanted.
  __device__ void PrepareScale() {
    if constexpr (HasScales(kFormat)) scales = ScalePair(scales * 0x00010001u);
  }
  __device__ uint32_t Pair(int i) const {
    return DequantisedPair<kFormat>(words[i / kPairsPerWord], i % kPairsPerWord, scales);
  }
};

}  // namespace palimpsest::cuda
