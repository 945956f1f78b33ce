// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/step_writer.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "kernels/cuda/array_packer.h"
#include "kernels/cuda/page_entries.h"
#include "kernels/cuda/uneven_writer.h"

namespace palimpsest::cuda {
namespace {

uint64_t PageCount(const SequenceView& view) {
  uint64_t count = 0;
  for (const auto& pages : view.pages) count += pages.size();
  return count;
}

SlotUse UseOfSlots(const SequenceView& view, const StepRows& rows) {
  if (view.evict_from != kNoEviction) return SlotUse::kEvict;
  const bool received = view.slot_score == SlotScore::kAttentionReceived && rows.count == 1;
  return received ? SlotUse::kAddReceived : SlotUse::kNone;
}

// The largest number of rounds that the pool's uneven sequences may have in use: one of a share s
// of the mean has s as many as the pages that they would fill if all had s, but for those begun.
uint64_t RoundsMax(const PoolLayout& pool) {
  if (pool.lane_ranks().empty()) return 0;
  const std::vector<float>& shares = pool.config().codebook->lane_shares;
  const float largest = *std::max_element(shares.begin(), shares.end());
  constexpr uint64_t kBegun = 4;
  return static_cast<uint64_t>(std::ceil(largest)) * pool.pages_max() +
         kBegun * pool.sequences_max();
}

// Where each row of the step goes, and which of `window` queries are kept. Returns how many rows
// there are, gaps included.
uint32_t PutRows(absl::Span<const SequenceView> sequences, absl::Span<const StepRows> rows,
                 uint32_t window, StepRow* to) {
  uint32_t end = 0, taken = 0;
  for (const StepRows& r : rows) {
    end = std::max(end, r.row + r.count);
    taken += r.count;
  }
  if (taken < end) std::fill_n(to, end, StepRow{.open_group = kNoRow});
  for (uint32_t i = 0; i < rows.size(); ++i) {
    const SequenceView& view = sequences[rows[i].sequence];
    for (uint32_t j = 0; j < rows[i].count; ++j) {
      const uint32_t slot = view.open_count + j;
      to[rows[i].row + j] = {.open_group = view.open_group,
                             .slot = static_cast<uint16_t>(slot),
                             // Only the last of a step's rows have room, each in its own place.
                             .keeps_query = view.keeps_queries && j + window >= rows[i].count,
                             .position = view.open_position + slot,
                             .sequence = i};
    }
  }
  return end;
}

}  // namespace

StepWriter::StepWriter(const PoolLayout& pool, const AttendGeometry& geometry)
    : pages_max_(pool.pages_max()),
      rounds_max_(RoundsMax(pool)),
      planner_(geometry, pool.shape(), pool.config().query_heads),
      lanes_(static_cast<uint32_t>(pool.shape().lanes())) {
  const uint64_t rows_max = pool.config().rows_max;
  ArrayPacker packer;
  offsets_ = {.header = packer.Add<StepHeader>(1),
              .sequences = packer.Add<StepSequence>(rows_max),
              .rows = packer.Add<StepRow>(rows_max),
              .first_item = packer.Add<uint32_t>(geometry.warp_count() + 1),
              .pages = packer.Add<PageEntry>(pages_max_)};
  if (!pool.lane_ranks().empty()) {
    const uint64_t sequences_max = pool.sequences_max();
    packer.Add<uint32_t>(rounds_max_ + sequences_max * lanes_);
    layer_plans_.emplace(geometry, pool.shape(), pool.config().query_heads, pool.sequences_max());
    block_counts_.reserve(sequences_max);
  }
  packer.Add<AttendItem>(geometry.items_max + 1);  // one for the gap before them
  bytes_max_ = packer.bytes();
  plan_input_.reserve(rows_max);
  sequences_.reserve(rows_max);
}

StepArrays StepWriter::At(uint8_t* base) const {
  return {.header = reinterpret_cast<StepHeader*>(base + offsets_.header),
          .sequences = reinterpret_cast<StepSequence*>(base + offsets_.sequences),
          .rows = reinterpret_cast<StepRow*>(base + offsets_.rows),
          .first_item = reinterpret_cast<uint32_t*>(base + offsets_.first_item),
          .pages = reinterpret_cast<PageEntry*>(base),
          .words = reinterpret_cast<uint32_t*>(base),
          .items = reinterpret_cast<AttendItem*>(base),
          .first_page = static_cast<uint32_t>(offsets_.pages / sizeof(PageEntry))};
}

uint64_t StepWriter::PutSequences(const PoolLayout& pool, absl::Span<const SequenceView> sequences,
                                  absl::Span<const StepRows> rows, uint64_t first,
                                  PageEntry* pages) {
  PageEntry* next = pages + first;
  plan_input_.clear();
  sequences_.clear();
  for (const StepRows& r : rows) {
    const SequenceView& view = sequences[r.sequence];
    SequencePages& input = plan_input_.emplace_back();
    const PageEntry* const begin = next;
    for (const Thought thought : kThoughts) {
      const PageFormat format = view.formats.of(thought);
      const auto& of_class = view.pages[Index(thought)];
      next = PutPages(of_class, format, next);
      input.runs[Index(thought)] = {
          .page_count = static_cast<uint32_t>(of_class.size()),
          .lane_bytes = static_cast<uint32_t>(pool.page(format).lane_bytes)};
    }
    sequences_.push_back({.first_page = static_cast<uint32_t>(begin - pages),
                          .page_count = static_cast<uint32_t>(next - begin),
                          .open_group = view.open_group,
                          .open_count = view.open_count,
                          .open_position = view.open_position,
                          .row = r.row,
                          .row_count = r.count,
                          .slot_use = UseOfSlots(view, r),
                          .evict_from = view.evict_from});
  }
  return next - pages;
}

absl::StatusOr<uint64_t> StepWriter::PutUneven(absl::Span<const SequenceView> sequences,
                                               absl::Span<const StepRows> rows, uint64_t first,
                                               uint32_t* words) {
  uint32_t* next = words + first;
  uint64_t rounds_left = rounds_max_;
  block_counts_.clear();
  for (uint32_t i = 0; i < rows.size(); ++i) {
    const UnevenLanes& uneven = sequences[rows[i].sequence].uneven;
    block_counts_.push_back(uneven.empty() ? nullptr : uneven.block_counts.data());
    if (uneven.empty()) continue;
    const uint64_t rounds = RoundsUsed(uneven);
    if (rounds > rounds_left || rounds > uneven.round_first.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the lanes of uneven sequence ", rows[i].sequence, " have blocks of ",
                       rounds, " rounds; it names ", uneven.round_first.size(),
                       ", and a step has room for ", rounds_left, " more"));
    }
    rounds_left -= rounds;
    StepSequence& sequence = sequences_[i];
    sequence.even_pages = uneven.even_pages;
    sequence.first_round = static_cast<uint32_t>(next - words);
    next = std::copy_n(uneven.round_first.begin(), rounds, next);
    sequence.first_count = static_cast<uint32_t>(next - words);
    next = std::copy(uneven.block_counts.begin(), uneven.block_counts.end(), next);
  }
  return next - words;
}

absl::StatusOr<uint64_t> StepWriter::Write(const PoolLayout& pool,
                                           absl::Span<const SequenceView> sequences,
                                           absl::Span<const StepRows> rows, uint8_t* base) {
  uint64_t page_count = 0;
  for (const StepRows& r : rows) page_count += PageCount(sequences[r.sequence]);
  if (page_count > pages_max_) {
    return absl::InvalidArgumentError(absl::StrCat("the step's sequences name ", page_count,
                                                   " pages; the pool has no more than ",
                                                   pages_max_));
  }
  const StepArrays to = At(base);

  uint64_t bytes =
      PutSequences(pool, sequences, rows, offsets_.pages / sizeof(PageEntry), to.pages) *
      sizeof(PageEntry);
  const bool uneven = std::any_of(rows.begin(), rows.end(), [&](const StepRows& r) {
    return !sequences[r.sequence].uneven.empty();
  });
  due_layers_ = {};
  if (uneven) {
    if (!layer_plans_.has_value()) {
      return absl::InvalidArgumentError("a sequence is uneven, and no codebook says how");
    }
    KV_ASSIGN_OR_RETURN(const uint64_t words_end,
                        PutUneven(sequences, rows, bytes / sizeof(uint32_t), to.words));
    bytes = words_end * sizeof(uint32_t);
    due_layers_ = layer_plans_->Follow(sequences_, plan_input_, block_counts_);
  }
  std::copy(sequences_.begin(), sequences_.end(), to.sequences);
  const uint32_t row_count = PutRows(sequences, rows, pool.config().query_window, to.rows);

  *to.header = {.row_count = row_count, .layer_plans = uneven};
  if (uneven && !pool.shape().slot_scores) return bytes;
  const auto first_item =
      static_cast<uint32_t>((bytes + sizeof(AttendItem) - 1) / sizeof(AttendItem));
  const AttendPlan plan =
      planner_.Plan(sequences_, plan_input_,
                    {.items = to.items, .first = first_item, .first_item = to.first_item});
  return (first_item + plan.item_count) * sizeof(AttendItem);
}

}  // namespace palimpsest::cuda
