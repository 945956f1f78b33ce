// SPDX-License-Identifier: Apache-2.0
// Tables of uneven sequences say what the views that they are made of say.
#include "kernels/cuda/uneven_writer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "tests/kernels/dealt_blocks.h"

namespace palimpsest::cuda {
namespace {

TEST(UnevenWriter, EveryBlockIsFoundWhereTheViewPutsItAndNowhereTwice) {
  for (uint32_t seed = 0; seed < 50; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 engine(seed);
    const uint32_t lanes = 1 + engine() % 12, even_pages = engine() % 4;
    std::vector<uint32_t> ranks(lanes), most(lanes), by_rank(lanes);
    std::iota(ranks.begin(), ranks.end(), 0);
    std::shuffle(ranks.begin(), ranks.end(), engine);
    for (uint32_t& blocks : by_rank) blocks = 1 + engine() % 9;
    std::sort(by_rank.rbegin(), by_rank.rend());
    for (uint32_t lane = 0; lane < lanes; ++lane) most[lane] = by_rank[ranks[lane]];
    const uint32_t all = std::accumulate(most.begin(), most.end(), 0u);
    const uint32_t pages = even_pages + engine() % (all / lanes + 2);
    DealtBlocks dealt(even_pages, ranks, most);
    dealt.SetPages(pages);
    const UnevenLanes view = dealt.View();

    std::vector<uint32_t> numbers(UnevenTable::Size(lanes, RoundsUsed(view)) + 1, 0xdead);
    WriteUnevenTable(view, ranks, numbers.data());
    EXPECT_EQ(numbers.back(), 0xdeadu);
    const UnevenTable table{numbers.data()};
    EXPECT_EQ(table.even_pages(), even_pages);
    std::set<std::pair<uint32_t, uint32_t>> places;
    for (uint32_t lane = 0; lane < lanes; ++lane) {
      ASSERT_EQ(table.block_count(ranks[lane]), view.block_counts[lane]);
      for (uint32_t i = 0; i < view.block_counts[lane]; ++i) {
        const BlockPlace expected = PlaceOfBlock(view, lanes, lane, ranks[lane], i);
        const UnevenTable::Place found = table.Find(lanes, lane, ranks[lane], i);
        EXPECT_EQ(found.page, expected.page);
        EXPECT_EQ(found.place, expected.place);
        EXPECT_LT(found.page, pages);
        EXPECT_TRUE(places.emplace(found.page, found.place).second);
      }
    }
    EXPECT_EQ(places.size(), std::min(even_pages * lanes + all, pages * lanes));
  }
}

TEST(UnevenWriter, LanesKeepTheirOwnOrAllTheSame) {
  const std::vector<uint32_t> keeps = {300, 16, 5};
  AnnealOrder order{.keep = 107,
                    .lane_keeps = keeps,
                    .selection = {.selector = Selector::kAnticipated, .recent = 16}};
  order.selection.recent_beyond = 128;
  std::vector<uint32_t> numbers(6);
  WriteLaneKeeps(order, absl::MakeSpan(numbers));
  EXPECT_EQ(numbers, (std::vector<uint32_t>{300, 86, 16, 16, 5, 5}));
  EXPECT_EQ(LaneKeep::Of(numbers.data(), 1).keep, 16u);
  order.lane_keeps = {};
  WriteLaneKeeps(order, absl::MakeSpan(numbers));
  EXPECT_EQ(numbers, (std::vector<uint32_t>{107, 16, 107, 16, 107, 16}));
}

}  // namespace
}  // namespace palimpsest::cuda
