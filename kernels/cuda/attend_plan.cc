// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/attend_plan.h"

#include <algorithm>
#include <cstddef>

#include "common/base/check.h"
#include "kernels/cuda/attend_cutter.h"

namespace palimpsest::cuda {
namespace {

// Less than this is not worth a CTA of its own, or a further warp of a team.
constexpr int64_t kPagesPerCtaMin = 8;
constexpr int64_t kPagesPerWarpMin = 2;
constexpr uint32_t kWarpsMax = 32;  // of a CTA

int64_t OpenGroupCost(const CacheShape& shape) {
  constexpr PageRun kBf16Page = {};
  return int64_t{kGroupTokens} * shape.head_dim * 4 + PageCost(kBf16Page);
}

int64_t PagesCost(const SequencePages& pages) {
  int64_t cost = 0;
  for (const PageRun& run : pages.runs) cost += run.page_count * PageCost(run);
  return cost;
}

// Deals the pieces of one CTA after the other out to its warps.
class Dealer {
 public:
  Dealer(uint32_t warps, int64_t open_group_cost, absl::Span<const SequencePages> pages,
         const AttendTables& tables)
      : warps_(warps), open_group_cost_(open_group_cost), pages_(pages), tables_(tables) {
    tables.first_item[0] = end_ = tables.first;
  }

  uint32_t item_count() const { return end_ - tables_.first; }

  // Deals what the CTAs before `cta` have of `pieces`, and takes it away.
  void DealUpTo(uint32_t cta, absl::Span<const AttendItem> whole,
                std::vector<AttendPiece>* pieces) {
    if (cta_ == cta) return;
    size_t next = 0;
    for (; cta_ < cta; ++cta_) {
      const size_t first = next;
      while (next < pieces->size() && (*pieces)[next].cta == cta_) ++next;
      Deal(whole, absl::MakeConstSpan(*pieces).subspan(first, next - first));
    }
    pieces->erase(pieces->begin(), pieces->begin() + static_cast<ptrdiff_t>(next));
  }

 private:
  void Deal(absl::Span<const AttendItem> whole, absl::Span<const AttendPiece> pieces) {
    int64_t total = 0, page_count = 0;
    for (const AttendPiece& piece : pieces) {
      total += piece.stretch.cost;
      page_count += piece.stretch.page_count + 1;
    }
    const int64_t share =
        page_count == 0 ? 1 : std::max(total / warps_ + 1, kPagesPerWarpMin * total / page_count);
    Cutter cutter(share, warps_);
    warp_ = 0;
    uint32_t team = end_;  // first item of the team before
    for (const AttendPiece& piece : pieces) {
      const uint32_t first = end_;
      uint32_t team_first = 0;
      cutter.Cut(piece.stretch, pages_[piece.sequence], open_group_cost_,
                 [&](const AttendStretch& part) {
                   while (warp_ < cutter.bin()) EndWarp();
                   if (end_ == first) team_first = warp_;
                   PutItem(whole[piece.sequence], piece, part);
                 });
      NameTeam(first, team_first);
      // Did the last warp of the team before go on to this piece?
      AttendItem* const items = tables_.items;
      const AttendItem& before = items[team];
      if (first > team && before.team_size > 1 &&
          before.team_first + before.team_size - 1u == team_first) {
        for (uint32_t i = team; i < first; ++i) items[i].team_goes_on = 1;
      }
      team = first;
    }
    while (warp_ < warps_) EndWarp();
  }

  void PutItem(const AttendItem& whole, const AttendPiece& piece, const AttendStretch& part) {
    AttendItem& item = tables_.items[end_++];
    item = whole;
    item.first_page += part.first_page;
    item.page_count = part.page_count;
    item.pair = piece.pair;
    item.first_part = piece.first_part;
    item.part = static_cast<uint16_t>(piece.part);
    item.part_count = static_cast<uint16_t>(piece.part_count);
    item.kv_head = static_cast<uint16_t>(piece.kv_head);
    item.first_query = static_cast<uint16_t>(piece.first_query);
    item.with_open_group = part.with_open_group;
  }

  // The items from `first` on are one piece's, by warps from `warp` on.
  void NameTeam(uint32_t first, uint32_t warp) {
    for (uint32_t i = first; i < end_; ++i) {
      tables_.items[i].team_first = static_cast<uint8_t>(warp);
      tables_.items[i].team_size = static_cast<uint8_t>(end_ - first);
    }
  }

  void EndWarp() {
    uint32_t* const first_item = &tables_.first_item[cta_ * warps_ + warp_++];
    first_item[1] = end_;
    // A warp's ring has stages of one size: the largest that any of its items wants.
    AttendItem* const items = tables_.items;
    uint16_t largest = 0;
    for (uint32_t i = *first_item; i < end_; ++i) {
      largest = std::max(largest, items[i].stage_bytes_16);
    }
    for (uint32_t i = *first_item; i < end_; ++i) items[i].stage_bytes_16 = largest;
  }

  const uint32_t warps_;
  const int64_t open_group_cost_;
  const absl::Span<const SequencePages> pages_;
  const AttendTables tables_;
  uint32_t end_ = 0;   // of the items put
  uint32_t cta_ = 0;   // at hand
  uint32_t warp_ = 0;  // of it
};

AttendItem ItemOf(const StepSequence& sequence, const SequencePages& pages, uint32_t group) {
  uint32_t lane_bytes = 0;
  for (const PageRun& run : pages.runs) {
    if (run.page_count > 0) lane_bytes = std::max(lane_bytes, run.lane_bytes);
  }
  return {.first_page = sequence.first_page,
          .page_count = sequence.page_count,
          .row = sequence.row,
          .open_group = sequence.open_group,
          .query_count = static_cast<uint16_t>(sequence.row_count * group),
          .stage_bytes_16 = static_cast<uint16_t>(lane_bytes / 16),
          .row_count = static_cast<uint8_t>(sequence.row_count),
          .open_count = static_cast<uint8_t>(sequence.open_count),
          .with_open_group = 1,
          .slot_use = sequence.slot_use,
          .evict_from = sequence.evict_from};
}

}  // namespace

AttendGeometry WithBounds(AttendGeometry grid, const CacheShape& shape, int query_heads,
                          uint32_t rows_max, uint32_t sequences_max) {
  const auto heads = static_cast<uint32_t>(shape.kv_heads);
  const uint32_t group = static_cast<uint32_t>(query_heads) / heads;
  grid.pairs_max = heads * (rows_max * group / grid.queries_max + sequences_max);
  grid.items_max = grid.pairs_max + grid.warp_count();
  grid.parts_max = 2 * grid.cta_count;
  return grid;
}

AttendPlanner::AttendPlanner(const AttendGeometry& geometry, const CacheShape& shape,
                             int query_heads)
    : geometry_(geometry),
      kv_heads_(static_cast<uint32_t>(shape.kv_heads)),
      group_(static_cast<uint32_t>(query_heads / shape.kv_heads)),
      open_group_cost_(OpenGroupCost(shape)) {
  KV_CHECK(geometry.warps_per_cta <= kWarpsMax);
  whole_.reserve(geometry.pairs_max / kv_heads_);
  pieces_.reserve(geometry.pairs_max + geometry.cta_count);
}

uint32_t AttendPlanner::PairCount(const StepSequence& sequence) const {
  const uint32_t queries = sequence.row_count * group_;
  return (queries + geometry_.queries_max - 1) / geometry_.queries_max * kv_heads_;
}

AttendStretch AttendPlanner::Whole(const StepSequence& sequence, const SequencePages& pages,
                                   uint32_t head) const {
  AttendStretch whole{.page_count = sequence.page_count, .with_open_group = true};
  if (pages.head_blocks == nullptr) {
    whole.cost = PagesCost(pages) + open_group_cost_;
    return whole;
  }
  whole.page_count = pages.head_blocks[head];
  int64_t page_cost = 0;  // all are of one class
  for (const PageRun& run : pages.runs) {
    if (run.page_count > 0) page_cost = PageCost(run);
  }
  whole.cost = whole.page_count * page_cost + open_group_cost_;
  return whole;
}

int64_t AttendPlanner::CtaShare(absl::Span<const StepSequence> sequences,
                                absl::Span<const SequencePages> pages) const {
  int64_t total = 0, page_count = 0;
  uint32_t pair_count = 0;
  for (uint32_t i = 0; i < sequences.size(); ++i) {
    const uint32_t pairs = PairCount(sequences[i]), pairs_of_head = pairs / kv_heads_;
    pair_count += pairs;
    if (pages[i].head_blocks == nullptr) {
      total += (PagesCost(pages[i]) + open_group_cost_) * pairs;
      page_count += (int64_t{sequences[i].page_count} + 1) * pairs;
      continue;
    }
    for (uint32_t head = 0; head < kv_heads_; ++head) {
      const AttendStretch whole = Whole(sequences[i], pages[i], head);
      total += whole.cost * pairs_of_head;
      page_count += (int64_t{whole.page_count} + 1) * pairs_of_head;
    }
  }
  // Every warp may cut an item in two.
  KV_CHECK(pair_count <= geometry_.pairs_max &&
           pair_count + geometry_.warp_count() <= geometry_.items_max);
  if (page_count == 0) return 1;
  return std::max(total / geometry_.cta_count + 1, kPagesPerCtaMin * total / page_count);
}

AttendPlan AttendPlanner::Plan(absl::Span<const StepSequence> sequences,
                               absl::Span<const SequencePages> pages, const AttendTables& tables) {
  KV_CHECK(sequences.size() == pages.size());
  AttendPlan plan;
  whole_.clear();
  pieces_.clear();
  Cutter cutter(CtaShare(sequences, pages), geometry_.cta_count);
  Dealer dealer(geometry_.warps_per_cta, open_group_cost_, pages, tables);
  for (uint32_t i = 0; i < sequences.size(); ++i) {
    const uint32_t query_count =
        whole_.emplace_back(ItemOf(sequences[i], pages[i], group_)).query_count;
    for (uint32_t head = 0; head < kv_heads_; ++head) {
      const AttendStretch whole = Whole(sequences[i], pages[i], head);
      for (uint32_t query = 0; query < query_count; query += geometry_.queries_max) {
        const size_t first = pieces_.size();
        cutter.Cut(whole, pages[i], open_group_cost_, [&](const AttendStretch& part) {
          AttendPiece& piece = pieces_.emplace_back();  // filled in place: there are thousands
          piece.stretch = part;
          piece.sequence = i;
          piece.cta = cutter.bin();
          piece.pair = plan.pair_count;
          piece.first_part = plan.part_count;
          piece.part = static_cast<uint32_t>(pieces_.size() - first - 1);
          piece.kv_head = head;
          piece.first_query = query;
        });
        const auto parts = static_cast<uint32_t>(pieces_.size() - first);
        for (size_t k = first; k < pieces_.size(); ++k) pieces_[k].part_count = parts;
        if (parts > 1) plan.part_count += parts;
        ++plan.pair_count;
        dealer.DealUpTo(cutter.bin(), whole_, &pieces_);
      }
    }
  }
  dealer.DealUpTo(geometry_.cta_count, whole_, &pieces_);
  KV_CHECK(plan.part_count <= geometry_.parts_max);
  plan.item_count = dealer.item_count();
  return plan;
}

}  // namespace palimpsest::cuda
