// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/attend_plan.h"

#include <algorithm>
#include <limits>

#include "common/base/check.h"

namespace palimpsest::cuda {
namespace {

// What a page costs beside its bytes (mask, table entry, softmax), in bytes of the same time.
constexpr int64_t kPageOverheadBytes = 384;
// Less than this is not worth a CTA of its own, or a further warp of a team.
constexpr int64_t kPagesPerCtaMin = 8;
constexpr int64_t kPagesPerWarpMin = 2;
constexpr uint32_t kWarpsMax = 32;  // of a CTA

int64_t PageCost(const PageRun& run) { return run.lane_bytes + kPageOverheadBytes; }

int64_t OpenGroupCost(const CacheShape& shape) {
  return int64_t{kGroupTokens} * shape.head_dim * 4 + kPageOverheadBytes;
}

int64_t PagesCost(const SequencePages& pages) {
  int64_t cost = 0;
  for (const PageRun& run : pages.runs) cost += run.page_count * PageCost(run);
  return cost;
}

uint32_t PageCount(const SequencePages& pages) {
  uint32_t count = 0;
  for (const PageRun& run : pages.runs) count += run.page_count;
  return count;
}

// How many of the pages [first, limit) end before `room` does, to the nearest page; `cost` is
// theirs.
uint32_t TakePages(const SequencePages& pages, uint32_t first, int64_t room, uint32_t limit,
                   int64_t* cost) {
  uint32_t taken = 0, before = 0;
  *cost = 0;
  for (const PageRun& run : pages.runs) {
    const uint32_t end = std::min(before + run.page_count, limit);
    const uint32_t from = std::max(before, first + taken);
    before += run.page_count;
    if (from >= end) continue;
    const int64_t page = PageCost(run);
    const int64_t fit = std::clamp<int64_t>((room - *cost + page / 2) / page, 0, end - from);
    *cost += fit * page;
    taken += static_cast<uint32_t>(fit);
    if (from + fit < end) break;
  }
  return taken;
}

int64_t NextPageCost(const SequencePages& pages, uint32_t page) {
  for (const PageRun& run : pages.runs) {
    if (page < run.page_count) return PageCost(run);
    page -= run.page_count;
  }
  return 0;
}

// Cuts a line of pairs or pieces into stretches of equal cost. Where one cannot end exactly where
// it should, the next makes up for it, so that errors do not add up in the last.
class Cutter {
 public:
  Cutter(int64_t stretch, uint32_t count) : stretch_(stretch), count_(count), room_(stretch) {}

  // The stretch at hand, < count.
  uint32_t stretch() const { return at_; }

  // Cuts `item`'s pages (from sequence_page on, the sequence's first) and, where it has one, the
  // open group behind them. Calls emit(item, cost) for each part, with stretch() where it belongs.
  template <typename Emit>
  void Cut(AttendItem item, const SequencePages& pages, uint32_t sequence_page, int64_t open_group,
           const Emit& emit) {
    const uint32_t end = item.first_page - sequence_page + item.page_count;
    uint32_t page = item.first_page - sequence_page;
    const bool with_open_group = item.with_open_group != 0;
    if (!with_open_group) open_group = 0;
    // A part that goes on into a stretch takes something of it, so that parts are neighbours.
    bool goes_on = false;
    while (true) {
      const bool last = at_ + 1 == count_;
      int64_t cost = 0;
      int64_t room = last ? std::numeric_limits<int64_t>::max() / 2 : room_;
      if (goes_on) room = std::max(room, NextPageCost(pages, page));
      const uint32_t take = TakePages(pages, page, room, end, &cost);
      const bool fits = (room_ - cost) * 2 >= open_group || (goes_on && take == 0);
      const bool whole = page + take == end && (last || fits);
      item.first_page = sequence_page + page;
      item.page_count = take;
      item.with_open_group = whole && with_open_group;
      if (whole) cost += open_group;
      page += take;
      room_ -= cost;
      if (take > 0 || item.with_open_group != 0) {
        emit(item, cost);
        goes_on = true;
      }
      if (whole) break;
      Next();
    }
    if (room_ <= 0) Next();
  }

 private:
  void Next() {
    if (at_ + 1 == count_) return;
    ++at_;
    room_ += stretch_;
  }

  const int64_t stretch_;
  const uint32_t count_;
  uint32_t at_ = 0;
  int64_t room_;  // left in the present stretch
};

// Numbers the pieces [first, end) of one pair.
void NumberParts(size_t first, AttendPlan* plan) {
  const size_t count = plan->pieces.size() - first;
  for (size_t i = 0; i < count; ++i) {
    AttendItem& item = plan->pieces[first + i].item;
    item.part = static_cast<uint16_t>(i);
    item.part_count = static_cast<uint16_t>(count);
    item.first_part = plan->part_count;
  }
  if (count > 1) plan->part_count += static_cast<uint32_t>(count);
}

// The items [first, end) are one piece's, by warps from `warp` on.
void NameTeam(size_t first, uint32_t warp, AttendPlan* plan) {
  const size_t size = plan->items.size() - first;
  for (size_t i = first; i < plan->items.size(); ++i) {
    plan->items[i].team_first = static_cast<uint8_t>(warp);
    plan->items[i].team_size = static_cast<uint8_t>(size);
  }
}

// A warp's ring has stages of one size: the largest that any of its items [first, end) wants.
void ShareStageSize(size_t first, AttendPlan* plan) {
  uint16_t largest = 0;
  for (size_t i = first; i < plan->items.size(); ++i) {
    largest = std::max(largest, plan->items[i].stage_bytes_16);
  }
  for (size_t i = first; i < plan->items.size(); ++i) plan->items[i].stage_bytes_16 = largest;
}

// Deals one CTA's pieces out to its warps.
void DealPieces(absl::Span<const AttendPiece> pieces, absl::Span<const StepSequence> sequences,
                absl::Span<const SequencePages> pages, int64_t open_group, uint32_t warps,
                AttendPlan* plan) {
  const size_t first_warp = plan->first_item.size() - 1;
  const auto warp_of_next = [&] { return plan->first_item.size() - 1 - first_warp; };
  const auto end_warp = [&] {
    ShareStageSize(plan->first_item.back(), plan);
    plan->first_item.push_back(static_cast<uint32_t>(plan->items.size()));
  };
  int64_t total = 0, page_count = 0;
  for (const AttendPiece& piece : pieces) {
    total += piece.cost;
    page_count += piece.item.page_count + 1;
  }
  const int64_t stretch =
      page_count == 0 ? 1 : std::max(total / warps + 1, kPagesPerWarpMin * total / page_count);
  Cutter cutter(stretch, warps);
  size_t team = 0;  // first item of the team before
  for (const AttendPiece& piece : pieces) {
    const size_t first = plan->items.size();
    uint32_t team_first = 0;
    const auto emit = [&](const AttendItem& item, int64_t) {
      while (warp_of_next() < cutter.stretch()) end_warp();
      if (plan->items.size() == first) team_first = cutter.stretch();
      plan->items.push_back(item);
    };
    cutter.Cut(piece.item, pages[piece.sequence], sequences[piece.sequence].first_page, open_group,
               emit);
    NameTeam(first, team_first, plan);
    // Did the last warp of the team before go on to this piece?
    const AttendItem& before = plan->items[team];
    if (first > team && before.team_size > 1 &&
        before.team_first + before.team_size - 1u == team_first) {
      for (size_t i = team; i < first; ++i) plan->items[i].team_goes_on = 1;
    }
    team = first;
  }
  while (warp_of_next() < warps) end_warp();
}

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
          .with_open_group = 1};
}

}  // namespace

void PlanAttend(const AttendGeometry& geometry, const CacheShape& shape, int query_heads,
                absl::Span<const StepSequence> sequences, absl::Span<const SequencePages> pages,
                AttendPlan* plan) {
  KV_CHECK(sequences.size() == pages.size() && geometry.warps_per_cta <= kWarpsMax);
  plan->items.clear();
  plan->pieces.clear();
  plan->first_item.assign(1, 0);
  plan->part_count = plan->pair_count = 0;
  const uint32_t group = static_cast<uint32_t>(query_heads / shape.kv_heads);
  const int64_t open_group = OpenGroupCost(shape);
  const auto blocks = [&](uint32_t i) {
    return (sequences[i].row_count * group + geometry.queries_max - 1) / geometry.queries_max;
  };
  int64_t total = 0, page_count = 0;
  for (uint32_t i = 0; i < sequences.size(); ++i) {
    const int64_t pairs = int64_t{blocks(i)} * shape.kv_heads;
    total += (PagesCost(pages[i]) + open_group) * pairs;
    page_count += (PageCount(pages[i]) + 1) * pairs;
  }
  const int64_t stretch = page_count == 0 ? 1
                                          : std::max(total / geometry.cta_count + 1,
                                                     kPagesPerCtaMin * total / page_count);
  Cutter cutter(stretch, geometry.cta_count);
  for (uint32_t i = 0; i < sequences.size(); ++i) {
    AttendItem item = ItemOf(sequences[i], pages[i], group);
    for (int head = 0; head < shape.kv_heads; ++head) {
      item.kv_head = static_cast<uint16_t>(head);
      for (uint32_t block = 0; block < blocks(i); ++block) {
        item.first_query = static_cast<uint16_t>(block * geometry.queries_max);
        item.pair = plan->pair_count++;
        const size_t first = plan->pieces.size();
        cutter.Cut(item, pages[i], item.first_page, open_group,
                   [&](const AttendItem& piece, int64_t cost) {
                     plan->pieces.push_back({piece, i, cutter.stretch(), cost});
                   });
        NumberParts(first, plan);
      }
    }
  }
  size_t next = 0;
  for (uint32_t cta = 0; cta < geometry.cta_count; ++cta) {
    const size_t first = next;
    while (next < plan->pieces.size() && plan->pieces[next].cta == cta) ++next;
    DealPieces(absl::MakeConstSpan(plan->pieces).subspan(first, next - first), sequences, pages,
               open_group, geometry.warps_per_cta, plan);
  }
  KV_CHECK(plan->items.size() <= geometry.items_max);
  KV_CHECK(plan->part_count <= geometry.parts_max);
  KV_CHECK(plan->pair_count <= geometry.pairs_max);
}

}  // namespace palimpsest::cuda
