// SPDX-License-Identifier: Apache-2.0
// Where blocks of uneven sequences lie and how many there are, against dealing them out one by one.
#include "kernels/uneven_lanes.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "gtest/gtest.h"
#include "kernels/block_rounds.h"
#include "tests/kernels/dealt_blocks.h"

namespace palimpsest {
namespace {

TEST(UnevenLanes, RanksFallWithTheShareAndOfEqualOnesTheFirstIsAhead) {
  EXPECT_EQ(RankLanes({0.5f, 2.0f, 1.0f, 0.5f, 1.0f}), (std::vector<uint32_t>{3, 0, 1, 4, 2}));
  EXPECT_EQ(RankLanes({1.0f}), std::vector<uint32_t>{0});
  EXPECT_TRUE(RankLanes({}).empty());
}

TEST(UnevenLanes, SharesForTestsAreWhatBackendsTake) {
  for (const int lanes : {1, 2, 3, 4, 6, 7, 60, 256}) {
    std::vector<float> shares = SpreadShares(lanes);
    EXPECT_NEAR(std::accumulate(shares.begin(), shares.end(), 0.0), lanes, 1e-3);
    std::sort(shares.begin(), shares.end());
    EXPECT_EQ(std::adjacent_find(shares.begin(), shares.end()), shares.end());
    EXPECT_GT(shares.front(), kLaneShareMin);
  }
}

// Any lanes, ranks, capacities and numbers of even pages, page by page.
TEST(UnevenLanes, BlocksLieWhereDealingPutsThem) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937 random(seed);
    const uint32_t lanes = 1 + random() % 37, even_pages = random() % 4;
    std::vector<float> shares(lanes);
    for (float& share : shares) share = static_cast<float>(1 + random() % 8);  // some are equal
    const std::vector<uint32_t> ranks = RankLanes(shares);
    std::vector<uint32_t> capacities(lanes);
    const uint32_t largest = 1 + random() % 9;
    for (uint32_t lane = 0; lane < lanes; ++lane) {
      capacities[lane] = 1 + static_cast<uint32_t>(shares[lane]) * largest / 8;
    }
    DealtBlocks dealt(even_pages, ranks, capacities);
    ASSERT_EQ(dealt.View().round_first, RoundsOf(capacities));
    std::vector<uint32_t> counts(lanes);
    // Until all is dealt, and a page more.
    for (bool done = false; !done;) {
      done = dealt.all_dealt();
      dealt.AddPage();
      const UnevenLanes uneven = dealt.View();
      CountBlocks(uneven.even_pages, dealt.pages(), uneven.round_first, ranks,
                  absl::MakeSpan(counts));
      for (uint32_t lane = 0; lane < lanes; ++lane) {
        const std::vector<BlockPlace>& blocks = dealt.blocks(static_cast<int>(lane));
        ASSERT_EQ(counts[lane], blocks.size()) << "lane " << lane << ", " << dealt.pages();
        ASSERT_EQ(uneven.block_counts[lane], blocks.size());
        for (uint32_t i = 0; i < blocks.size(); ++i) {
          const BlockPlace at = PlaceOfBlock(uneven, lanes, lane, ranks[lane], i);
          ASSERT_EQ(at.page, blocks[i].page) << "lane " << lane << " block " << i;
          ASSERT_EQ(at.place, blocks[i].place) << "lane " << lane << " block " << i;
        }
      }
    }
    for (uint32_t lane = 0; lane < lanes; ++lane) {
      EXPECT_EQ(counts[lane], even_pages + capacities[lane]);
    }
  }
}

TEST(UnevenLanes, ASequenceWithoutPagesHasNoBlocks) {
  const std::vector<uint32_t> round_first = {0, 2, 3}, ranks = {1, 0};
  std::vector<uint32_t> counts = {7, 7};
  CountBlocks(0, 0, round_first, ranks, absl::MakeSpan(counts));
  EXPECT_EQ(counts, (std::vector<uint32_t>{0, 0}));
  CountBlocks(3, 3, {0}, ranks, absl::MakeSpan(counts));  // no rounds: none but even pages
  EXPECT_EQ(counts, (std::vector<uint32_t>{3, 3}));
  CountBlocks(3, 5, {0}, ranks, absl::MakeSpan(counts));
  EXPECT_EQ(counts, (std::vector<uint32_t>{3, 3}));
}

}  // namespace
}  // namespace palimpsest
