// SPDX-License-Identifier: Apache-2.0
#include "services/decode/pool/page_pool.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"

namespace palimpsest {
namespace {

constexpr uint64_t kFrameStepBytes = 4096;

uint64_t RoundUp(uint64_t value, uint64_t step) { return (value + step - 1) / step * step; }

PageFormat FormatOfKind(int index) {
  return {static_cast<Format>(index / kFormatCount), static_cast<Format>(index % kFormatCount)};
}

}  // namespace

uint64_t ChooseFrameBytes(const CacheShape& shape) {
  constexpr double kWasteMax = 0.04;
  constexpr int kPagesMax = 64;
  const uint64_t widest = MakePageLayout(shape, {Format::kBf16, Format::kBf16}).page_bytes;
  uint64_t best_bytes = RoundUp(widest, kFrameStepBytes);
  double best_waste = 1.0;
  for (uint64_t bytes = best_bytes; bytes <= widest * kPagesMax; bytes += kFrameStepBytes) {
    double waste = 0.0;
    for (const Format format : kFormats) {
      const uint64_t page = MakePageLayout(shape, {format, format}).page_bytes;
      waste = std::max(waste, static_cast<double>(bytes % page) / static_cast<double>(bytes));
    }
    if (waste < best_waste) {
      best_waste = waste;
      best_bytes = bytes;
    }
    if (waste <= kWasteMax) break;
  }
  return best_bytes;
}

absl::StatusOr<PagePool> PagePool::Create(const PagePoolConfig& config) {
  PagePoolConfig chosen = config;
  if (chosen.frame_bytes == 0) chosen.frame_bytes = ChooseFrameBytes(config.shape);
  const uint64_t widest = MakePageLayout(config.shape, {Format::kBf16, Format::kBf16}).page_bytes;
  if (chosen.frame_bytes % kPageAlignment != 0 || chosen.frame_bytes < widest) {
    return absl::InvalidArgumentError(
        absl::StrCat("frame_bytes ", chosen.frame_bytes, ": expected a multiple of ",
                     kPageAlignment, " of at least one bf16 page (", widest, " bytes)"));
  }
  if (chosen.pool_bytes < chosen.frame_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("pool_bytes ", chosen.pool_bytes,
                                                   ": expected at least one frame (",
                                                   chosen.frame_bytes, " bytes)"));
  }
  if (chosen.pool_bytes / chosen.frame_bytes >= kNone) {
    return absl::InvalidArgumentError(
        absl::StrCat("pool_bytes ", chosen.pool_bytes, ": too many frames"));
  }
  return PagePool(chosen);
}

PagePool::PagePool(const PagePoolConfig& config) : frame_bytes_(config.frame_bytes) {
  for (int i = 0; i < kKinds; ++i) {
    kinds_[i].layout = MakePageLayout(config.shape, FormatOfKind(i));
    kinds_[i].pages_per_frame = static_cast<uint32_t>(frame_bytes_ / kinds_[i].layout.page_bytes);
  }
  frames_.resize(config.pool_bytes / frame_bytes_);
  for (size_t i = frames_.size(); i > 0; --i) {
    free_frames_.push_back(static_cast<uint32_t>(i - 1));
  }
}

int PagePool::KindIndex(PageFormat format) {
  return static_cast<int>(format.k) * kFormatCount + static_cast<int>(format.v);
}

bool PagePool::PromisesHold() const {
  uint64_t frames = 0;
  for (const Kind& kind : kinds_) {
    if (kind.promised_pages <= kind.free_pages) continue;
    const uint64_t missing = kind.promised_pages - kind.free_pages;
    frames += (missing + kind.pages_per_frame - 1) / kind.pages_per_frame;
  }
  return frames <= free_frames_.size();
}

absl::Status PagePool::Reserve(PageFormat format, uint32_t pages) {
  Kind& kind = kinds_[KindIndex(format)];
  kind.promised_pages += pages;
  if (PromisesHold()) return absl::OkStatus();
  kind.promised_pages -= pages;
  return absl::ResourceExhaustedError(absl::StrCat("page pool: ", pages, " pages of ",
                                                   Name(format.k), "/", Name(format.v),
                                                   " cannot be promised now"));
}

void PagePool::Unreserve(PageFormat format, uint32_t pages) {
  Kind& kind = kinds_[KindIndex(format)];
  KV_CHECK(kind.promised_pages >= pages);
  kind.promised_pages -= pages;
}

absl::StatusOr<PageOffset> PagePool::Allocate(PageFormat format, bool from_reservation) {
  const int index = KindIndex(format);
  Kind& kind = kinds_[index];
  if (from_reservation) {
    KV_CHECK(kind.promised_pages > 0);
    --kind.promised_pages;
  } else {
    // Could this page be promised beside all others? Then it can be handed out as well.
    ++kind.promised_pages;
    const bool safe = PromisesHold();
    --kind.promised_pages;
    if (!safe) return absl::ResourceExhaustedError("page pool: no page outside of reservations");
  }
  if (kind.partial.empty()) TakeFrame(index);
  const uint32_t frame_index = kind.partial.back();
  Frame& frame = frames_[frame_index];
  const uint32_t page = frame.free_pages.back();
  frame.free_pages.pop_back();
  ++frame.used;
  --kind.free_pages;
  ++kind.used_pages;
  if (frame.free_pages.empty()) RemovePartial(frame_index);
  return static_cast<uint64_t>(frame_index) * frame_bytes_ + page * kind.layout.page_bytes;
}

void PagePool::Free(PageFormat format, PageOffset offset) {
  const int index = KindIndex(format);
  Kind& kind = kinds_[index];
  const uint64_t frame_index = offset / frame_bytes_;
  const uint64_t in_frame = offset % frame_bytes_;
  KV_CHECK(frame_index < frames_.size());
  Frame& frame = frames_[frame_index];
  KV_CHECK(frame.kind == index && frame.used > 0 && in_frame % kind.layout.page_bytes == 0);
  const uint32_t page = static_cast<uint32_t>(in_frame / kind.layout.page_bytes);
  KV_CHECK(std::find(frame.free_pages.begin(), frame.free_pages.end(), page) ==
           frame.free_pages.end());
  if (frame.free_pages.empty()) AddPartial(static_cast<uint32_t>(frame_index));
  frame.free_pages.push_back(page);
  --frame.used;
  ++kind.free_pages;
  --kind.used_pages;
  if (frame.used > 0) return;
  RemovePartial(static_cast<uint32_t>(frame_index));
  kind.free_pages -= frame.free_pages.size();
  frame = Frame{};
  free_frames_.push_back(static_cast<uint32_t>(frame_index));
}

bool PagePool::FitsEmpty(PageFormat format, uint32_t pages) const {
  return pages <= static_cast<uint64_t>(kind(format).pages_per_frame) * frames_.size();
}

PoolUsage PagePool::usage() const {
  PoolUsage usage;
  usage.capacity_bytes = capacity_bytes();
  usage.frame_bytes = frame_bytes_;
  usage.used_bytes = used_frame_bytes();
  usage.formats.reserve(kKinds);
  for (int i = 0; i < kKinds; ++i) {
    usage.page_bytes += kinds_[i].used_pages * kinds_[i].layout.page_bytes;
    usage.formats.push_back({FormatOfKind(i), kinds_[i].used_pages, kinds_[i].layout.page_bytes});
  }
  return usage;
}

uint64_t PagePool::slack_bytes() const {
  uint64_t page_bytes = 0;
  for (const Kind& kind : kinds_) page_bytes += kind.used_pages * kind.layout.page_bytes;
  return used_frame_bytes() - page_bytes;
}

void PagePool::TakeFrame(int kind_index) {
  KV_CHECK(!free_frames_.empty());
  const uint32_t index = free_frames_.back();
  free_frames_.pop_back();
  Frame& frame = frames_[index];
  Kind& kind = kinds_[kind_index];
  frame.kind = kind_index;
  for (uint32_t i = kind.pages_per_frame; i > 0; --i) frame.free_pages.push_back(i - 1);
  kind.free_pages += kind.pages_per_frame;
  AddPartial(index);
}

void PagePool::AddPartial(uint32_t frame) {
  Kind& kind = kinds_[frames_[frame].kind];
  frames_[frame].partial_index = static_cast<uint32_t>(kind.partial.size());
  kind.partial.push_back(frame);
}

void PagePool::RemovePartial(uint32_t frame) {
  Kind& kind = kinds_[frames_[frame].kind];
  const uint32_t place = frames_[frame].partial_index;
  KV_CHECK(place < kind.partial.size() && kind.partial[place] == frame);
  kind.partial[place] = kind.partial.back();
  frames_[kind.partial[place]].partial_index = place;
  kind.partial.pop_back();
  frames_[frame].partial_index = kNone;
}

}  // namespace palimpsest
