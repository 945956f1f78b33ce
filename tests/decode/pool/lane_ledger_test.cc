// SPDX-License-Identifier: Apache-2.0
// The book-keeping of uneven sequences against their definition in kernels/uneven_lanes.h.
#include "services/decode/pool/lane_ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "common/policy/lane_budgets.h"

namespace palimpsest {
namespace {

using testing::ElementsAre;

constexpr uint32_t kPage = 16;

// From `low` to `high`, evenly in logarithms, in random order; of mean 1 when they are divided.
std::vector<float> SharesFrom(float low, float high, uint32_t lanes, uint32_t seed) {
  std::vector<float> shares(lanes);
  for (uint32_t i = 0; i < lanes; ++i) {
    shares[i] = low * std::pow(high / low, static_cast<float>(i) / static_cast<float>(lanes - 1));
  }
  std::shuffle(shares.begin(), shares.end(), std::mt19937(seed));
  const float mean = std::accumulate(shares.begin(), shares.end(), 0.0f) / lanes;
  for (float& share : shares) share /= mean;
  return shares;
}

// As uneven_lanes.h says: a block is a lane's if its round has one for the lane's rank, and the
// page is there.
std::vector<uint32_t> BlocksByDefinition(const UnevenLanes& view, uint32_t pages,
                                         const std::vector<uint32_t>& ranks) {
  const auto lanes = static_cast<uint32_t>(ranks.size());
  std::vector<uint32_t> counts;
  for (const uint32_t rank : ranks) {
    uint32_t count = std::min(view.even_pages, pages);
    for (size_t round = 0; round + 1 < view.round_first.size(); ++round) {
      const uint32_t size = view.round_first[round + 1] - view.round_first[round];
      const uint32_t page = view.even_pages + (view.round_first[round] + rank) / lanes;
      if (size > rank && page < pages) ++count;
    }
    counts.push_back(count);
  }
  return counts;
}

void ExpectSound(const LaneLedger& ledger, uint32_t pages, const std::vector<uint32_t>& ranks) {
  const auto lanes = static_cast<uint32_t>(ranks.size());
  const UnevenLanes view = ledger.view();
  ASSERT_EQ(view.round_first[0], 0u);
  for (size_t round = 0; round + 1 < view.round_first.size(); ++round) {
    const uint32_t size = view.round_first[round + 1] - view.round_first[round];
    ASSERT_GE(size, 1u);
    ASSERT_LE(size, round == 0 ? lanes : view.round_first[round] - view.round_first[round - 1]);
  }
  ASSERT_THAT(view.block_counts, testing::ElementsAreArray(BlocksByDefinition(view, pages, ranks)));
  // No two blocks lie in one place, and all lie in the sequence's pages.
  std::set<std::pair<uint32_t, uint32_t>> places;
  for (uint32_t lane = 0; lane < lanes; ++lane) {
    for (uint32_t block = 0; block < view.block_counts[lane]; ++block) {
      const BlockPlace at = PlaceOfBlock(view, lanes, lane, ranks[lane], block);
      ASSERT_LT(at.page, pages);
      ASSERT_LT(at.place, lanes);
      ASSERT_TRUE(places.insert({at.page, at.place}).second);
    }
  }
}

struct Life {
  uint32_t pages_peak = 0;
  uint32_t live_peak = 0;  // of the lane that had most of its own
};

// A chain of `tokens` tokens whose anneals come when windows end, or `late` groups after. A lane
// that wants more than it may have is a failure.
Life Lead(const LaneSharing& sharing, uint32_t prompt, uint32_t tokens, uint32_t late = 0) {
  LaneLedger ledger(sharing, prompt);
  const std::vector<uint32_t> ranks = RankLanes(sharing.shares);
  const std::vector<uint32_t> budgets = LaneBudgets(sharing.shares, sharing.budget_tokens);
  std::vector<uint32_t> live(budgets.size());
  Life life;
  uint32_t pages = 0, window_start = prompt;
  std::set<uint32_t> due;  // when anneals are
  for (uint32_t sealed = kPage; sealed <= tokens; sealed += kPage) {
    if (due.contains(sealed)) {
      EXPECT_EQ(ledger.Lowers(sharing.budget_tokens),
                !std::equal(live.begin(), live.end(), budgets.begin(), std::less_equal<>()));
      ledger.Anneal(sharing.budget_tokens);
      for (size_t i = 0; i < live.size(); ++i) live[i] = std::min(live[i], budgets[i]);
    }
    const auto wanted = ledger.PagesFor(kPage);
    if (!wanted.has_value()) {
      ADD_FAILURE() << "at " << sealed << " a lane may not have what it needs";
      return life;
    }
    if (*wanted > pages) {
      pages = *wanted;
      ledger.SetPages(pages - 1);
      EXPECT_LT(ledger.DeadSlots(), kPage) << "a page more than is needed";
      ledger.SetPages(pages);
      EXPECT_LE(pages, ledger.pages_max());
      ExpectSound(ledger, pages, ranks);
    }
    EXPECT_GE(ledger.DeadSlots(), kPage);
    const uint32_t of_prompt = std::min(kPage, prompt - std::min(prompt, sealed - kPage));
    ledger.Seal(of_prompt, kPage - of_prompt);
    for (uint32_t& one : live) one += kPage - of_prompt;
    life.live_peak = std::max(life.live_peak, *std::max_element(live.begin(), live.end()));
    EXPECT_EQ(ledger.mean_live(),
              (std::accumulate(live.begin(), live.end(), 0u) + live.size() - 1) / live.size());
    if (sealed >= window_start + sharing.window_tokens) {
      window_start = sealed;
      due.insert(sealed + kPage * (1 + late));
    }
  }
  life.pages_peak = pages;
  return life;
}

TEST(LaneLedger, DealsBlocksInRoundsByRank) {
  // Lanes keep 32, 16 and 48 tokens; with a window of 16 they may have 3, 2 and 4 blocks.
  const std::vector<float> shares = {1.0f, 0.1f, 1.9f};
  LaneLedger ledger({.shares = shares, .budget_tokens = 32, .window_tokens = 16}, 35);
  EXPECT_EQ(ledger.view().even_pages, 0u) << "it has no page yet";
  // The prompt's last three tokens take a block more each.
  EXPECT_THAT(ledger.view().round_first, ElementsAre(0, 3, 6, 9, 11, 12));
  EXPECT_EQ(ledger.pages_max(), 2u + 4);
  const std::vector<std::vector<uint32_t>> counts = {{0, 0, 0}, {1, 1, 1}, {2, 2, 2}, {3, 3, 3},
                                                     {4, 4, 4}, {5, 5, 5}, {6, 5, 7}, {6, 5, 7}};
  for (uint32_t pages = 0; pages < counts.size(); ++pages) {
    ledger.SetPages(pages);
    EXPECT_THAT(ledger.view().block_counts, testing::ElementsAreArray(counts[pages])) << pages;
  }
}

TEST(LaneLedger, EveryLaneHasRoomAtEverySealAndNoPageTooMany) {
  for (const uint32_t seed : {1u, 2u, 3u}) {
    for (const uint32_t budget : {32u, 64u, 192u, 576u}) {
      for (const uint32_t prompt : {1u, 15u, 16u, 17u, 100u}) {
        const std::vector<float> shares = SharesFrom(0.25f, 3.0f, 6 * seed, seed);
        const uint32_t window = std::max(16u, budget / 8 / 16 * 16);
        const Life life = Lead({shares, budget, window}, prompt, 2000);
        const auto most = LaneBudgets(shares, budget);
        EXPECT_EQ(life.live_peak, *std::max_element(most.begin(), most.end()) + window);
        if (HasFailure()) return;
      }
    }
  }
}

TEST(LaneLedger, ALaneThatMayHaveNoMoreBlocksSaysSoUntilItIsAnnealed) {
  const std::vector<float> shares = {0.5f, 1.5f};
  LaneLedger ledger({.shares = shares, .budget_tokens = 64, .window_tokens = 16}, 16);
  ledger.SetPages(ledger.pages_max());
  ledger.Seal(16, 0);
  // The lane of small share keeps 48 and may hold 64.
  for (int group = 0; group < 4; ++group) {
    ASSERT_TRUE(ledger.PagesFor(16).has_value());
    ledger.Seal(0, 16);
  }
  EXPECT_FALSE(ledger.PagesFor(16).has_value());
  EXPECT_EQ(ledger.DeadSlots(), 0u);
  EXPECT_TRUE(ledger.Lowers(64));
  ledger.Anneal(64);
  EXPECT_FALSE(ledger.Lowers(64));
  EXPECT_TRUE(ledger.PagesFor(16).has_value());
  EXPECT_EQ(ledger.DeadSlots(), 16u);
  EXPECT_EQ(ledger.mean_live(), 56u) << "48 and 64";
  ledger.Anneal(0);
  EXPECT_EQ(ledger.mean_live(), 0u);
}

TEST(LaneLedger, PlansThatComeLateFindRoomIfItWasAskedFor) {
  const std::vector<float> shares = SharesFrom(0.25f, 3.0f, 12, 5);
  for (const uint32_t late : {0u, 1u, 2u}) {
    Lead({shares, 192, 16, 16 * late}, 20, 1500, late);
    Lead({shares, 576, 64, 16 * late}, 20, 3000, late);
  }
}

TEST(LaneLedger, ChainsThatCannotReachTheirBudgetHaveShortTables) {
  const std::vector<float> shares = SharesFrom(0.25f, 3.0f, 12, 5);
  const LaneSharing bounded{
      .shares = shares, .budget_tokens = 1 << 20, .window_tokens = 128, .tokens_max = 500};
  const LaneLedger ledger(bounded, 100);
  EXPECT_EQ(ledger.view().round_first.size(), 1u + 32 - 6);
  EXPECT_EQ(ledger.pages_max(), 32u);
  EXPECT_LT(ledger.bytes(), 512u);
  Lead(bounded, 100, 500);
}

TEST(LaneLedger, LanesThatBackendsCannotScoreAreEven) {
  const std::vector<float> shares = SharesFrom(0.25f, 3.0f, 12, 5);
  const auto uneven = [&](uint32_t budget, uint32_t prompt, uint32_t tokens_max) {
    const LaneSharing sharing{
        .shares = shares, .budget_tokens = budget, .window_tokens = 128, .tokens_max = tokens_max};
    return !WithinLimits(sharing, prompt).shares.empty();
  };
  EXPECT_TRUE(uneven(1024, 1000, 100000));
  EXPECT_FALSE(uneven(1024, 32000, 100000));
  EXPECT_FALSE(uneven(20000, 1000, 100000));
  EXPECT_TRUE(uneven(20000, 1000, 16384)) << "it will not come to that";
}

// Pages of a whole chain, against those of one whose lanes all hold the budget and a window.
TEST(LaneLedger, TakesThePagesOfAnEvenSequenceAndOneForEachGroupOfLag) {
  for (const uint32_t lag : {0u, 16u, 32u}) {
    for (const uint32_t budget : {192u, 320u, 576u, 1024u}) {
      const std::vector<float> shares = SharesFrom(0.25f, 3.0f, 56, 7);
      const uint32_t window = std::clamp(budget / 8 / 16 * 16, 16u, 128u);
      const Life uneven = Lead({shares, budget, window, lag}, 32, 8192);
      const uint32_t even = 2 + (budget + window) / kPage;
      EXPECT_EQ(uneven.pages_peak, even + lag / kPage)
          << "budget " << budget << ", window " << window << ", lag " << lag;
    }
  }
}

}  // namespace
}  // namespace palimpsest
