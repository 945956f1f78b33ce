// SPDX-License-Identifier: Apache-2.0
// The cache of one live sequence: its block tables, open group and segments. It is the truth about
// them; the host side of what the live masks say on the device.
//
// Kernels work on batches of sequences, so changes come in two halves: Plan… says what a kernel
// shall do (and takes the page it needs), Commit… records that it was done. Between the two the
// caller makes the backend call. One thread.
//
// In an uneven sequence (lane_ledger.h) lanes hold different numbers of tokens; what is said here
// of "a lane" is then their mean, rounded up. All its pages are of class R, and all that follows
// the prompt is one segment.
#pragma once

#include <array>
#include <cstdint>
#include <numeric>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/policy/sequence_state.h"
#include "kernels/backend.h"
#include "services/decode/pool/lane_ledger.h"
#include "services/decode/pool/page_pool.h"

namespace palimpsest {

struct SequenceCacheOptions {
  ClassFormats formats;
  uint32_t open_group = 0;      // index, owned by this cache until Release
  uint32_t prompt_tokens = 0;   // positions [0, prompt_tokens) are pinned
  uint32_t reserved_pages = 0;  // of class R's format, promised by the pool at admission
  Selection selection = {};     // its policy's: what its slots carry, whether queries are kept
  uint64_t query_bytes = 0;     // what those take
  LaneSharing sharing = {};     // with shares: of a policy whose one_segment() is true
};

class SequenceCache {
 public:
  // `pool` and `backend` outlive the cache. Takes over the reservation.
  SequenceCache(PagePool* pool, Backend* backend, const SequenceCacheOptions& options);
  SequenceCache(const SequenceCache&) = delete;
  SequenceCache& operator=(const SequenceCache&) = delete;
  ~SequenceCache();  // Release

  SequenceView view() const;
  const SequenceState& state() const { return state_; }
  const ClassFormats& formats() const { return options_.formats; }
  uint32_t open_group() const { return options_.open_group; }
  bool uneven() const { return lanes_.has_value(); }
  uint32_t open_count() const { return open_count_; }
  uint32_t token_count() const { return sealed_tokens_ + open_count_; }
  // Of a lane, prompt and open group included. Cheap: asked for at every step.
  uint32_t live_tokens() const { return std::accumulate(live_.begin(), live_.end(), open_count_); }
  // The class whose block table holds `thought`'s pages: the first one of the same format. Classes
  // of one format share pages, so that a slot one of them frees is free for all.
  Thought PagesOf(Thought thought) const;
  // Dead slots in a class's pages: what Seal can fill before it needs a page. Of the lane that has
  // the fewest.
  uint32_t DeadSlots(Thought thought) const;

  // A step appended `count` tokens to the open group.
  void CommitAppend(uint32_t count);

  // Makes room for the open group in `thought`'s pages, and gives the kernel's order.
  // ResourceExhausted when a page is needed and the pool has none; nothing has changed then, but
  // that pages found before are kept. Also where a lane has as many blocks as it may have: an
  // anneal is overdue.
  absl::StatusOr<SealOrder> PlanSeal(Thought thought, uint32_t view_index);
  // The open group was sealed. Returns what to report: a group that holds the prompt's end makes
  // two runs. `starts_window`: its first generated token is the first of a window.
  std::vector<SealedTokens> CommitSeal(Thought thought, bool starts_window);

  // The kernel order for `anneal`, which holds until the next PlanAnneal. NotFound /
  // FailedPrecondition as RecordAnneal.
  absl::StatusOr<AnnealOrder> PlanAnneal(const Anneal& anneal, const Selection& selection,
                                         uint32_t view_index);
  // Has any lane more to give than `anneal` leaves? Else its order need not be carried out.
  // REQUIRES: PlanAnneal(anneal) is OK.
  bool Lowers(const Anneal& anneal);
  // The anneal was carried out. Pages of a format left without any live slot go back to the pool,
  // zeroed. Returns the number of tokens evicted in a lane.
  absl::StatusOr<uint32_t> CommitAnneal(const Anneal& anneal);

  // Every byte this sequence holds: pages (data, scales, positions, masks, holes), open group,
  // block tables, those of lanes and segments.
  uint64_t footprint_bytes() const { return footprint_bytes_; }
  // What the same tokens would take in the full bf16 cache, without any overhead.
  uint64_t full_bytes() const { return uint64_t{token_count()} * full_token_bytes_; }

  // Zeroes and returns all pages and the reservation. Idempotent. The open group is zeroed; its
  // index is the caller's to reuse.
  absl::Status Release();

 private:
  // Pages of `holder` that have room for the open group. ResourceExhausted where it can have none.
  absl::StatusOr<size_t> PagesForGroup(Thought holder) const;
  // Returns every page in the block table of `holder`, zeroed.
  absl::Status FreePages(Thought holder);
  uint64_t QueryBytes() const;
  // To be called wherever pages or segments have come or gone.
  void Count();

  PagePool* pool_;
  Backend* backend_;
  SequenceCacheOptions options_;
  const uint64_t open_group_bytes_;
  const uint64_t full_token_bytes_;
  uint32_t reserved_left_;
  uint32_t open_count_ = 0;
  bool released_ = false;
  // By PagesOf: block tables, and live slots of a lane in them.
  std::array<std::vector<PageOffset>, kThoughtCount> pages_;
  std::array<uint32_t, kThoughtCount> live_{};
  SequenceState state_;
  std::optional<LaneLedger> lanes_;  // of an uneven sequence
  // What is asked for at every step and changes at few.
  uint32_t sealed_tokens_ = 0;
  uint64_t footprint_bytes_ = 0;
};

}  // namespace palimpsest
