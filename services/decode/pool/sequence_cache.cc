// SPDX-License-Identifier: Apache-2.0
#include "services/decode/pool/sequence_cache.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace palimpsest {

SequenceCache::SequenceCache(PagePool* pool, Backend* backend, const SequenceCacheOptions& options)
    : pool_(pool),
      backend_(backend),
      options_(options),
      open_group_bytes_(OpenGroupBytes(pool->shape())),
      full_token_bytes_(FullTokenBytes(pool->shape())),
      reserved_left_(options.reserved_pages) {
  if (!options.sharing.shares.empty()) lanes_.emplace(options.sharing, options.prompt_tokens);
  Count();
}

SequenceCache::~SequenceCache() { Release().IgnoreError(); }

SequenceView SequenceCache::view() const {
  SequenceView view;
  for (int c = 0; c < kThoughtCount; ++c) view.pages[c] = pages_[c];
  view.formats = options_.formats;
  view.open_group = options_.open_group;
  view.open_count = open_count_;
  view.open_position = sealed_tokens_;
  view.slot_score = SlotScoreOf(options_.selection.selector);
  view.keeps_queries = NeedsQueries(options_.selection.selector);
  if (uneven()) view.uneven = lanes_->view();
  return view;
}

Thought SequenceCache::PagesOf(Thought thought) const {
  if (uneven()) return Thought::kReasoning;
  for (const Thought other : kThoughts) {
    if (options_.formats.of(other) == options_.formats.of(thought)) return other;
  }
  return thought;
}

uint32_t SequenceCache::DeadSlots(Thought thought) const {
  if (uneven()) return lanes_->DeadSlots();
  const size_t c = Index(PagesOf(thought));
  return static_cast<uint32_t>(pages_[c].size()) * kSlotsPerPage - live_[c];
}

void SequenceCache::CommitAppend(uint32_t count) {
  open_count_ += count;
  KV_CHECK(open_count_ <= kGroupTokens);
}

absl::StatusOr<SealOrder> SequenceCache::PlanSeal(Thought thought, uint32_t view_index) {
  KV_CHECK(open_count_ > 0);
  const Thought holder = PagesOf(thought);
  const PageFormat format = options_.formats.of(holder);
  KV_ASSIGN_OR_RETURN(const size_t wanted, PagesForGroup(holder));
  std::vector<PageOffset>& pages = pages_[Index(holder)];
  while (pages.size() < wanted) {
    const bool promised = reserved_left_ > 0 && format == options_.formats.of(Thought::kReasoning);
    KV_ASSIGN_OR_RETURN(const PageOffset page, pool_->Allocate(format, promised));
    if (promised) --reserved_left_;
    pages.push_back(page);
    if (uneven()) lanes_->SetPages(static_cast<uint32_t>(pages.size()));
    Count();
  }
  return SealOrder{.sequence = view_index, .thought = holder};
}

absl::StatusOr<size_t> SequenceCache::PagesForGroup(Thought holder) const {
  const size_t pages = pages_[Index(holder)].size();
  if (!uneven()) return pages + (DeadSlots(holder) < open_count_ ? 1 : 0);
  const std::optional<uint32_t> wanted = lanes_->PagesFor(open_count_);
  if (wanted.has_value()) return std::max<size_t>(pages, *wanted);
  return absl::ResourceExhaustedError("a lane holds all that it may hold between two anneals");
}

std::vector<SealedTokens> SequenceCache::CommitSeal(Thought thought, bool starts_window) {
  std::vector<SealedTokens> runs;
  if (uneven()) thought = Thought::kReasoning;
  const uint32_t first = sealed_tokens_;
  const uint32_t pinned =
      std::min(open_count_, options_.prompt_tokens - std::min(first, options_.prompt_tokens));
  if (pinned > 0) {
    runs.push_back({.token_count = pinned, .label = thought, .pinned = true});
  }
  if (open_count_ > pinned) {
    runs.push_back({.token_count = open_count_ - pinned,
                    .label = thought,
                    .pinned = false,
                    .starts_window = starts_window});
  }
  for (const SealedTokens& run : runs) RecordSealed(state_, run);
  if (uneven()) lanes_->Seal(pinned, open_count_ - pinned);
  Count();
  const size_t holder = Index(PagesOf(thought));
  live_[holder] += open_count_;
  open_count_ = 0;
  KV_CHECK(live_[holder] <= pages_[holder].size() * kSlotsPerPage);
  return runs;
}

absl::StatusOr<AnnealOrder> SequenceCache::PlanAnneal(const Anneal& anneal,
                                                      const Selection& selection,
                                                      uint32_t view_index) {
  const Segment* const segment = FindSegment(state_, anneal.first_position);
  if (segment == nullptr) {
    return absl::NotFoundError(absl::StrCat("no segment starts at ", anneal.first_position));
  }
  if (segment->pinned) {
    return absl::FailedPreconditionError(
        absl::StrCat("segment at ", anneal.first_position, " is pinned"));
  }
  return AnnealOrder{
      .sequence = view_index,
      .thought = PagesOf(segment->label),
      .first_position = segment->first_position,
      .end_position = segment->end_position(),
      .keep = anneal.keep,
      .lane_keeps = uneven() ? lanes_->Keeps(anneal.keep) : absl::Span<const uint32_t>(),
      .selection = selection};
}

bool SequenceCache::Lowers(const Anneal& anneal) {
  if (uneven()) return lanes_->Lowers(anneal.keep);
  return FindSegment(state_, anneal.first_position)->live_count > anneal.keep;
}

absl::StatusOr<uint32_t> SequenceCache::CommitAnneal(const Anneal& anneal) {
  const Segment* const segment = FindSegment(state_, anneal.first_position);
  const uint32_t before = segment == nullptr ? 0 : segment->live_count;
  Anneal recorded = anneal;
  if (uneven() && segment != nullptr && !segment->pinned) {
    KV_CHECK(segment == &state_.segments.back());  // there is no other
    lanes_->Anneal(anneal.keep);
    recorded.keep = lanes_->mean_live();
  }
  KV_RETURN_IF_ERROR(RecordAnneal(state_, recorded));
  const uint32_t evicted = before - segment->live_count;
  const Thought holder = PagesOf(segment->label);
  uint32_t& live = live_[Index(holder)];
  KV_CHECK(live >= evicted);
  live -= evicted;
  // Pages are shared by all lanes, and which slots died differs by lane: only where no slot at all
  // is live are pages sure to be free.
  if (live == 0) KV_RETURN_IF_ERROR(FreePages(holder));
  return evicted;
}

uint64_t SequenceCache::QueryBytes() const {
  return NeedsQueries(options_.selection.selector) ? options_.query_bytes : 0;
}

void SequenceCache::Count() {
  sealed_tokens_ = state_.sealed_tokens();
  footprint_bytes_ = open_group_bytes_ + QueryBytes() + state_.segments.size() * sizeof(Segment);
  if (uneven()) footprint_bytes_ += lanes_->bytes();
  for (const Thought thought : kThoughts) {
    const std::vector<PageOffset>& pages = pages_[Index(thought)];
    const uint64_t page_bytes = pool_->layout(options_.formats.of(thought)).page_bytes;
    footprint_bytes_ += pages.size() * (page_bytes + sizeof(PageOffset));
  }
}

absl::Status SequenceCache::Release() {
  if (released_) return absl::OkStatus();
  released_ = true;
  if (reserved_left_ > 0) {
    pool_->Unreserve(options_.formats.of(Thought::kReasoning), reserved_left_);
    reserved_left_ = 0;
  }
  absl::Status status = backend_->ZeroOpenGroup(options_.open_group);
  for (const Thought thought : kThoughts) status.Update(FreePages(thought));
  return status;
}

absl::Status SequenceCache::FreePages(Thought holder) {
  const PageFormat format = options_.formats.of(holder);
  const uint64_t page_bytes = pool_->layout(format).page_bytes;
  std::vector<PageOffset>& pages = pages_[Index(holder)];
  // A page that could not be zeroed stays out of use: it must never reach another tenant.
  for (const PageOffset page : pages) {
    KV_RETURN_IF_ERROR(backend_->Zero(page, page_bytes));
    pool_->Free(format, page);
  }
  pages.clear();
  live_[Index(holder)] = 0;
  if (uneven()) lanes_->SetPages(0);
  Count();
  return absl::OkStatus();
}

}  // namespace palimpsest
