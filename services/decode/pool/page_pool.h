// SPDX-License-Identifier: Apache-2.0
// Who owns which bytes of the device pool. Pure bookkeeping on the host: it hands out offsets and
// moves nothing.
//
// The pool is cut into frames of one size. A frame is given to a page format when a page of that
// format is wanted and no frame of the format has room, and goes back when its last page is freed,
// so formats share the pool without fragmenting it. What a frame cannot use (its tail, and free
// pages) is counted as slack.
//
// A reservation promises a sequence a number of pages of one format. Pages beyond a sequence's
// promise are handed out only while every outstanding promise could still be kept, so a chain that
// was admitted with room for its whole length never meets an empty pool.
//
// One thread. Pages come back zeroed: the owner zeroes them before Free.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/layout.h"

namespace palimpsest {

struct PagePoolConfig {
  CacheShape shape;
  uint64_t pool_bytes = 0;
  uint64_t frame_bytes = 0;  // 0: ChooseFrameBytes(shape)
};

struct PoolUsage {
  struct OfFormat {
    PageFormat format;
    uint64_t pages = 0;
    uint64_t page_bytes = 0;  // of one page
  };
  uint64_t capacity_bytes = 0;  // whole frames only
  uint64_t frame_bytes = 0;
  uint64_t used_bytes = 0;        // frames in use, slack included
  uint64_t page_bytes = 0;        // pages in use
  std::vector<OfFormat> formats;  // every pair of K and V formats
  uint64_t slack_bytes() const { return used_bytes - page_bytes; }
};

class PagePool {
 public:
  // InvalidArgument when the pool holds no frame, or a frame no page of some format.
  static absl::StatusOr<PagePool> Create(const PagePoolConfig& config);

  const CacheShape& shape() const { return kinds_[0].layout.shape; }
  const PageLayout& layout(PageFormat format) const { return kind(format).layout; }

  // Promises `pages` pages of `format`. ResourceExhausted when it could not be kept.
  absl::Status Reserve(PageFormat format, uint32_t pages);
  // Takes back what is left of a promise.
  void Unreserve(PageFormat format, uint32_t pages);

  // One page. `from_reservation` draws on a promise made before; otherwise ResourceExhausted when
  // the page would endanger one.
  absl::StatusOr<PageOffset> Allocate(PageFormat format, bool from_reservation);
  // REQUIRES: `page` is allocated with this format, and zeroed.
  void Free(PageFormat format, PageOffset page);

  // Could `pages` pages ever be promised, were the pool empty? This and capacity_bytes() never
  // change, and may be asked from any thread.
  bool FitsEmpty(PageFormat format, uint32_t pages) const;
  uint64_t capacity_bytes() const { return frames_.size() * frame_bytes_; }
  PoolUsage usage() const;
  uint64_t slack_bytes() const;  // usage's, at less cost

 private:
  static constexpr uint32_t kNone = ~uint32_t{0};
  static constexpr int kKinds = kFormatCount * kFormatCount;

  struct Frame {
    int kind = -1;  // -1: free
    uint32_t used = 0;
    std::vector<uint32_t> free_pages;  // indices within the frame, lowest last
    uint32_t partial_index = kNone;    // place in its kind's list of frames with room
  };
  struct Kind {
    PageLayout layout;
    uint32_t pages_per_frame = 0;
    std::vector<uint32_t> partial;  // frames with room
    uint64_t free_pages = 0;        // in those frames
    uint64_t used_pages = 0;
    uint64_t promised_pages = 0;  // not yet drawn
  };

  explicit PagePool(const PagePoolConfig& config);
  static int KindIndex(PageFormat format);
  const Kind& kind(PageFormat format) const { return kinds_[KindIndex(format)]; }
  bool PromisesHold() const;
  uint64_t used_frame_bytes() const {
    return (frames_.size() - free_frames_.size()) * frame_bytes_;
  }
  void TakeFrame(int kind_index);
  void AddPartial(uint32_t frame);
  void RemovePartial(uint32_t frame);

  uint64_t frame_bytes_;
  std::array<Kind, kKinds> kinds_;
  std::vector<Frame> frames_;
  std::vector<uint32_t> free_frames_;
};

// The smallest frame, in steps of 4 KiB, that wastes at most 4 % of itself whatever uniform format
// it is given; at least one bf16 page, at most 64 of them.
uint64_t ChooseFrameBytes(const CacheShape& shape);

}  // namespace palimpsest
