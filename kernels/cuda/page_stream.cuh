// SPDX-License-Identifier: Apache-2.0
// A warp's stream of pages: the lanes of consecutive pages of one sequence, copied ahead into the
// warp's own ring in shared memory. No other warp takes part, so there is nothing to synchronise
// with; pages of different formats follow each other freely.
//
// Table entries and live masks are fetched 32 pages at a time, one page a thread, a batch ahead.
#pragma once

#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/step_tables.h"

namespace palimpsest::cuda {

inline constexpr uint32_t kStagesMax = 8;

// Where the blocks of an uneven sequence's lane lie (uneven_lanes.h).
struct StreamedBlocks {
  uint32_t first = 0;  // the first to read
  uint32_t even_pages = 0;
  const uint32_t* round_first = nullptr;
  uint32_t lane = 0;
  uint32_t rank = 0;
  uint32_t lanes = 0;  // in all
};

struct StreamedPage {
  const uint8_t* bytes = nullptr;  // the lane, in shared memory
  PageFormat formats;
  uint32_t live = 0;  // mask of live slots
};

class PageStream {
 public:
  static constexpr uint32_t kByBlocks = ~uint32_t{0};

  // `ring`, `barriers` [kStagesMax], initialised, and `blocks` are the warp's own.
  __device__ PageStream(const DevicePool& pool, const DeviceLayouts& layouts, uint8_t* ring,
                        uint64_t* barriers, const StreamedBlocks& blocks)
      : pool_(pool),
        layouts_(layouts),
        blocks_(blocks),
        ring_(ring),
        barriers_(barriers),
        lane_(threadIdx.x % 32) {}

  // Streams entries[0, count) of lane `lane_index` (layer * kv_heads + kv_head) through ring_bytes
  // of the ring; or, if that is kByBlocks, `count` of the blocks that `blocks` tells of, in the
  // sequence's entries. `stage_bytes`: the largest lane among them, at most ring_bytes. REQUIRES:
  // the stream before was read to its end; `blocks` stays as it is until this one is.
  __device__ void Begin(const PageEntry* entries, uint32_t count, uint32_t lane_index,
                        uint32_t stage_bytes, uint32_t ring_bytes) {
    entries_ = entries;
    count_ = count;
    lane_index_ = lane_index;
    stage_bytes_ = stage_bytes;
    stages_ = count == 0 ? 0 : min(min(ring_bytes / stage_bytes, kStagesMax), count);
    stage_ = 0;
    next_ = 0;
    batch_[0] = Fetch(0);
    batch_[1] = Fetch(32);
    for (uint32_t i = 0; i < stages_; ++i) Copy(i, i);
  }

  // The next page; call count times. Valid until Release.
  __device__ StreamedPage Next() {
    const StreamedPage page{
        .bytes = ring_ + stage_ * stage_bytes_,
        .formats = FormatsOf(__shfl_sync(~0u, static_cast<uint32_t>(batch_[0].lane), next_ % 32)),
        .live = __shfl_sync(~0u, batch_[0].live, next_ % 32)};
    WaitBarrier(&barriers_[stage_], phases_ >> stage_ & 1);
    phases_ ^= 1u << stage_;
    return page;
  }

  // The page has been read; its room is used for the one `stages` further on.
  __device__ void Release() {
    __syncwarp();
    const uint32_t ahead = next_ + stages_;
    if (ahead < count_) Copy(stage_, ahead);
    if (++stage_ == stages_) stage_ = 0;
    if (++next_ % 32 == 0) {
      batch_[0] = batch_[1];
      batch_[1] = Fetch(next_ + 32);
    }
  }

 private:
  static constexpr uint64_t kPairMask = kFormatPairs - 1;

  // One page of the thread's.
  struct Page {
    uint64_t lane = 0;  // address, a multiple of kFormatPairs, with the format pair in its low bits
    uint32_t live = 0;
  };

  // Page first + lane_.
  __device__ Page Fetch(uint32_t first) const {
    uint32_t page = first + lane_, place = lane_index_;
    if (page >= count_) return {};
    if (lane_index_ == kByBlocks) FindBlock(&page, &place);
    const PageEntry entry = entries_[page];
    const DeviceLayout& layout = layouts_.of[entry & kPairMask];
    const uint8_t* bytes = pool_.pages + (entry & ~kPairMask);
    const auto* masks = reinterpret_cast<const uint16_t*>(bytes + layout.masks_offset);
    const uint64_t lane = reinterpret_cast<uint64_t>(bytes) + uint64_t{place} * layout.lane_bytes;
    return {.lane = lane | (entry & kPairMask), .live = masks[place]};
  }

  // From the number of a block to be read to its place.
  __device__ void FindBlock(uint32_t* page, uint32_t* place) const {
    *page += blocks_.first;
    *place = blocks_.lane;
    if (*page < blocks_.even_pages) return;
    const uint32_t number = blocks_.round_first[*page - blocks_.even_pages] + blocks_.rank;
    *page = blocks_.even_pages + number / blocks_.lanes;
    *place = number % blocks_.lanes;
  }

  // Page `page` is in this batch or the next.
  __device__ void Copy(uint32_t stage, uint32_t page) {
    const bool next_batch = page / 32 != next_ / 32;
    const uint64_t lane = __shfl_sync(~0u, next_batch ? batch_[1].lane : batch_[0].lane, page % 32);
    CopyAsync(ring_ + stage * stage_bytes_, reinterpret_cast<const uint8_t*>(lane & ~kPairMask),
              layouts_.of[lane & kPairMask].lane_bytes, &barriers_[stage], lane_, policy_);
  }

  const DevicePool& pool_;
  const DeviceLayouts& layouts_;
  const StreamedBlocks& blocks_;
  uint8_t* const ring_;
  uint64_t* const barriers_;
  const uint32_t lane_;
  // Pages are read once a step: without it the cache would lose what is read again.
  const uint64_t policy_ = ReadOncePolicy();
  uint32_t phases_ = 0;  // parity to wait for, a bit a stage

  const PageEntry* entries_ = nullptr;
  uint32_t count_ = 0;
  uint32_t lane_index_ = 0;
  uint32_t stage_bytes_ = 0;
  uint32_t stages_ = 0;
  uint32_t stage_ = 0;
  uint32_t next_ = 0;  // the page that Next returns
  Page batch_[2];      // pages next_ / 32 * 32 + lane_, and 32 further on
};

}  // namespace palimpsest::cuda
