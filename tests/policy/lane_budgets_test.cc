// SPDX-License-Identifier: Apache-2.0
#include "common/policy/lane_budgets.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace palimpsest {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::IsEmpty;

// Positive, of mean 1.
std::vector<float> RandomShares(std::mt19937& random, uint32_t lanes) {
  std::vector<float> shares(lanes);
  for (float& share : shares) share = static_cast<float>(1 + random() % 64) / 16;
  const float mean = std::accumulate(shares.begin(), shares.end(), 0.0f) / lanes;
  for (float& share : shares) share /= mean;
  return shares;
}

TEST(LaneBudgets, ComeToTheMeanTimesTheLanesWhateverIsShared) {
  std::mt19937 random(1);
  for (const uint32_t lanes : {1u, 2u, 3u, 7u, 56u, 288u, 2048u}) {
    const std::vector<float> shares = RandomShares(random, lanes);
    for (const uint32_t mean : {0u, 1u, 15u, 16u, 17u, 192u, 576u, 1023u, 1u << 24}) {
      const std::vector<uint32_t> budgets = LaneBudgets(shares, mean);
      EXPECT_EQ(std::accumulate(budgets.begin(), budgets.end(), uint64_t{0}),
                uint64_t{mean} * lanes)
          << lanes << " lanes of " << mean;
      EXPECT_GE(*std::min_element(budgets.begin(), budgets.end()), std::min(mean, kLaneBudgetMin));
    }
  }
}

TEST(LaneBudgets, ALargerShareOrAnEqualOneFurtherToTheFrontNeverGetsLess) {
  std::mt19937 random(2);
  for (int repeat = 0; repeat < 50; ++repeat) {
    const std::vector<float> shares = RandomShares(random, 60);
    const uint32_t mean = 16 + random() % 1024;
    const std::vector<uint32_t> budgets = LaneBudgets(shares, mean);
    for (size_t a = 0; a < shares.size(); ++a) {
      for (size_t b = 0; b < shares.size(); ++b) {
        if (shares[a] > shares[b] || (shares[a] == shares[b] && a < b)) {
          ASSERT_GE(budgets[a], budgets[b]) << "lanes " << a << " and " << b << " of " << mean;
        }
      }
    }
  }
}

TEST(LaneBudgets, EqualSharesGetTheSame) {
  for (const uint32_t lanes : {1u, 3u, 7u, 49u}) {
    for (const uint32_t mean : {5u, 16u, 100u, 1001u}) {
      EXPECT_THAT(LaneBudgets(std::vector<float>(lanes, 1.0f), mean), Each(mean));
    }
  }
}

TEST(LaneBudgets, DifferByWholeBlocks) {
  std::mt19937 random(3);
  const std::vector<float> shares = RandomShares(random, 24);
  for (uint32_t mean = 0; mean < 400; ++mean) {
    for (const uint32_t budget : LaneBudgets(shares, mean)) {
      EXPECT_EQ(budget % kLaneBudgetStep, mean % kLaneBudgetStep);
    }
  }
}

TEST(LaneBudgets, WhatIsOverTheMinimumGoesByShares) {
  EXPECT_THAT(LaneBudgets(std::vector<float>{0.5f, 1.5f}, 112), ElementsAre(64, 160));
  EXPECT_THAT(LaneBudgets(std::vector<float>{0.5f, 1.5f}, 115), ElementsAre(67, 163));
  // Beyond 16 each there are three blocks: 0.25, 1.75 and 1.
  EXPECT_THAT(LaneBudgets(std::vector<float>{0.25f, 1.75f, 1.0f}, 32), ElementsAre(16, 48, 32));
  // 0.5, 0.5 and 2.
  EXPECT_THAT(LaneBudgets(std::vector<float>{0.5f, 0.5f, 2.0f}, 32), ElementsAre(32, 16, 48));
}

TEST(LaneBudgets, TinyBudgetsAreTheSameForAll) {
  for (const uint32_t mean : {0, 9, 16, 31}) {
    EXPECT_THAT(LaneBudgets(std::vector<float>{0.25f, 1.75f}, mean), ElementsAre(mean, mean));
  }
  EXPECT_THAT(LaneBudgets({}, 16), IsEmpty());
}

}  // namespace
}  // namespace palimpsest
