// SPDX-License-Identifier: Apache-2.0
// The cut of a step's attention over warps: every page of every pair exactly once, in order, and
// no CTA with much more than its share.
#include "kernels/cuda/attend_plan.h"

#include <algorithm>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace palimpsest::cuda {
namespace {

struct Shape {
  int kv_heads, query_heads, head_dim;
};

// A sequence of a batch: its pages, and the rows it adds.
struct Sequence {
  SequencePages pages;
  uint32_t rows = 1;
};

class Planned {
 public:
  Planned(const Shape& shape, const std::vector<Sequence>& sequences, uint32_t cta_count = 132)
      : shape_(shape) {
    geometry_ = {.cta_count = cta_count,
                 .warps_per_cta = 12,
                 .queries_max = 8,
                 .items_max = 1u << 14,
                 .parts_max = 2 * cta_count,
                 .pairs_max = 1u << 14};
    uint32_t page = 0, row = 0;
    for (const Sequence& sequence : sequences) {
      pages_.push_back(sequence.pages);
      steps_.push_back({.first_page = page,
                        .page_count = PageCount(static_cast<uint32_t>(pages_.size()) - 1),
                        .row = row,
                        .row_count = sequence.rows});
      page += PageCount(static_cast<uint32_t>(pages_.size()) - 1);
      row += sequence.rows;
    }
    const CacheShape cache{.layers = 1, .kv_heads = shape.kv_heads, .head_dim = shape.head_dim};
    items_.resize(geometry_.items_max);
    first_item_.resize(geometry_.warp_count() + 1);
    AttendPlanner planner(geometry_, cache, shape.query_heads);
    constexpr uint32_t kFirst = 3;  // items of a step lie behind something else
    plan_ =
        planner.Plan(steps_, pages_,
                     {.items = items_.data(), .first = kFirst, .first_item = first_item_.data()});
    items_.resize(kFirst + plan_.item_count);
    items_.erase(items_.begin(), items_.begin() + kFirst);
    for (uint32_t& first : first_item_) first -= kFirst;
  }

  const AttendPlan& plan() const { return plan_; }
  const std::vector<AttendItem>& items() const { return items_; }
  const std::vector<uint32_t>& first_item() const { return first_item_; }

  uint32_t PageCount(uint32_t sequence) const {
    uint32_t count = 0;
    for (const PageRun& run : pages_[sequence].runs) count += run.page_count;
    return count;
  }
  // Bytes of an item's pages and open group.
  uint64_t Bytes(const AttendItem& item) const {
    const uint32_t sequence = SequenceOf(item);
    uint64_t bytes = item.with_open_group ? uint64_t{64} * shape_.head_dim : 0;
    uint32_t page = steps_[sequence].first_page;
    for (const PageRun& run : pages_[sequence].runs) {
      for (uint32_t i = 0; i < run.page_count; ++i, ++page) {
        const bool inside = page >= item.first_page && page < item.first_page + item.page_count;
        if (inside) bytes += run.lane_bytes;
      }
    }
    return bytes;
  }

  // Every pair's items, in order of piece and of warp in the team, cover its pages once, and the
  // open group last.
  void ExpectEveryPageOnce() const {
    const uint32_t group = static_cast<uint32_t>(shape_.query_heads / shape_.kv_heads);
    std::vector<std::vector<AttendItem>> by_pair(plan_.pair_count);
    for (const AttendItem& item : items_) {
      ASSERT_LT(item.pair, plan_.pair_count);
      by_pair[item.pair].push_back(item);
    }
    uint32_t pair = 0, parts = 0;
    for (uint32_t s = 0; s < steps_.size(); ++s) {
      for (int head = 0; head < shape_.kv_heads; ++head) {
        for (uint32_t query = 0; query < steps_[s].row_count * group; query += 8, ++pair) {
          ASSERT_LT(pair, by_pair.size());
          ExpectPair(by_pair[pair], s, head, query, &parts);
        }
      }
    }
    EXPECT_EQ(pair, plan_.pair_count);
    EXPECT_EQ(parts, plan_.part_count);
    ASSERT_EQ(first_item_.size(), geometry_.warp_count() + 1);
    EXPECT_TRUE(std::is_sorted(first_item_.begin(), first_item_.end()));
    EXPECT_EQ(first_item_.front(), 0u);
    EXPECT_EQ(first_item_.back(), items_.size());
  }

  // The members of a team are its warps, one item each, of the same piece.
  void ExpectTeamsHold() const {
    for (uint32_t cta = 0; cta < geometry_.cta_count; ++cta) {
      for (uint32_t warp = 0; warp < geometry_.warps_per_cta; ++warp) {
        const uint32_t at = cta * geometry_.warps_per_cta + warp;
        for (uint32_t i = first_item_[at]; i < first_item_[at + 1]; ++i) {
          const AttendItem& item = items_[i];
          ASSERT_LE(item.team_first, warp);
          ASSERT_LT(warp, item.team_first + item.team_size);
          ASSERT_LE(item.team_first + item.team_size, geometry_.warps_per_cta);
          if (item.team_size == 1) continue;
          // Last of the warp, unless it is the team's last and goes on; first, unless it leads.
          const bool last_of_team = warp + 1u == item.team_first + item.team_size;
          const bool last_item = i + 1 == first_item_[at + 1];
          EXPECT_EQ(last_item, !(last_of_team && item.team_goes_on != 0));
          if (warp != item.team_first) {
            EXPECT_EQ(i, first_item_[at]);
          }
          const uint32_t leader = at - warp + item.team_first;
          const AttendItem& first = items_[first_item_[leader + 1] - 1];
          EXPECT_EQ(first.pair, item.pair);
          EXPECT_EQ(first.part, item.part);
        }
      }
    }
  }

  // The most bytes of any `warps` neighbouring warps over the mean of all.
  double Imbalance(uint32_t warps) const {
    uint64_t most = 0, total = 0;
    for (uint32_t at = 0; at < geometry_.warp_count(); at += warps) {
      uint64_t bytes = 0;
      for (uint32_t i = first_item_[at]; i < first_item_[at + warps]; ++i) {
        bytes += Bytes(items_[i]);
      }
      most = std::max(most, bytes);
      total += bytes;
    }
    return static_cast<double>(most) * geometry_.warp_count() / warps / static_cast<double>(total);
  }

 private:
  uint32_t SequenceOf(const AttendItem& item) const {
    uint32_t sequence = 0;
    while (steps_[sequence].row != item.row) ++sequence;
    return sequence;
  }

  void ExpectPair(std::vector<AttendItem> items, uint32_t sequence, int head, uint32_t query,
                  uint32_t* parts) const {
    std::stable_sort(items.begin(), items.end(),
                     [](const AttendItem& a, const AttendItem& b) { return a.part < b.part; });
    ASSERT_FALSE(items.empty());
    uint32_t page = steps_[sequence].first_page;
    const uint32_t pieces = items.back().part + 1u;
    for (const AttendItem& item : items) {
      EXPECT_EQ(SequenceOf(item), sequence);
      EXPECT_EQ(item.kv_head, head);
      EXPECT_EQ(item.first_query, query);
      EXPECT_EQ(item.first_page, page);
      EXPECT_EQ(item.part_count, pieces);
      EXPECT_EQ(item.first_part, *parts);
      EXPECT_EQ(item.with_open_group != 0, &item == &items.back());
      page += item.page_count;
    }
    EXPECT_EQ(page, steps_[sequence].first_page + PageCount(sequence));
    if (pieces > 1) *parts += pieces;
  }

  const Shape shape_;
  std::vector<SequencePages> pages_;
  std::vector<StepSequence> steps_;
  AttendGeometry geometry_;
  AttendPlan plan_;
  std::vector<AttendItem> items_;
  std::vector<uint32_t> first_item_;
};

std::vector<Sequence> Batch(uint32_t count, uint32_t pages, uint32_t lane_bytes) {
  return std::vector<Sequence>(count, {.pages = {.runs = {{pages, lane_bytes}}}});
}

TEST(AttendPlan, AnEmptyStepHasNothingToDo) {
  const Planned planned({8, 32, 128}, {});
  EXPECT_TRUE(planned.items().empty());
  EXPECT_EQ(planned.first_item().back(), 0u);
}

TEST(AttendPlan, ASequenceWithoutPagesHasOneItemAHead) {
  const Planned planned({8, 32, 128}, Batch(1, 0, 0));
  planned.ExpectEveryPageOnce();
  EXPECT_EQ(planned.items().size(), 8u);
  EXPECT_EQ(planned.plan().part_count, 0u);
}

TEST(AttendPlan, RandomBatchesAreCutCompletely) {
  std::mt19937 random(1);
  const Shape shapes[] = {{8, 32, 128}, {3, 9, 64}, {1, 16, 64}, {8, 40, 128}};
  for (int round = 0; round < 400; ++round) {
    SCOPED_TRACE(round);
    std::vector<Sequence> sequences(1 + random() % 40);
    for (Sequence& sequence : sequences) {
      for (PageRun& run : sequence.pages.runs) {
        run = {static_cast<uint32_t>(random() % 200),
               16 * static_cast<uint32_t>(30 + random() % 400)};
      }
      sequence.rows = random() % 4 == 0 ? 1 + random() % 16 : 1;
    }
    const Planned planned(shapes[round % 4], sequences, 1 + random() % 200);
    planned.ExpectEveryPageOnce();
    planned.ExpectTeamsHold();
  }
}

TEST(AttendPlan, NoCtaHasMuchMoreThanItsShare) {
  struct Case {
    Shape shape;
    uint32_t batch, pages, lane_bytes;
  };
  const Case cases[] = {{{8, 32, 128}, 64, 64, 8192},  {{8, 32, 128}, 64, 64, 4352},
                        {{8, 32, 128}, 64, 256, 2304}, {{8, 32, 128}, 512, 64, 2304},
                        {{8, 32, 128}, 64, 256, 1280}, {{3, 9, 64}, 64, 256, 1152},
                        {{3, 9, 64}, 256, 64, 4096},   {{8, 32, 128}, 1024, 64, 2304}};
  for (const Case& c : cases) {
    const Planned planned(c.shape, Batch(c.batch, c.pages, c.lane_bytes));
    planned.ExpectEveryPageOnce();
    EXPECT_LT(planned.Imbalance(12), 1.05)
        << c.batch << " x " << c.pages << " pages of " << c.lane_bytes;
    EXPECT_LT(planned.Imbalance(1), 1.25)
        << c.batch << " x " << c.pages << " pages of " << c.lane_bytes;
  }
}

}  // namespace
}  // namespace palimpsest::cuda
