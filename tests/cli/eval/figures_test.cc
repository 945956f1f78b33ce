// SPDX-License-Identifier: Apache-2.0
#include "services/cli/eval/figures.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/cli/interval.h"
#include "tests/cli/eval/example.h"

namespace palimpsest::cli {
namespace {

TEST(WilsonInterval, HasTheFiguresOfTheBooks) {
  const Interval half = WilsonInterval(0.5, 100);
  EXPECT_NEAR(half.low, 0.4038, 1e-4);
  EXPECT_NEAR(half.high, 0.5962, 1e-4);
  const Interval all = WilsonInterval(1, 192);
  EXPECT_NEAR(all.low, 0.9804, 1e-4);
  EXPECT_DOUBLE_EQ(all.high, 1);
  const Interval none = WilsonInterval(0, 4);
  EXPECT_NEAR(none.low, 0, 1e-12);
  EXPECT_NEAR(none.high, 0.4899, 1e-4);
  EXPECT_EQ(WilsonInterval(0, 0).high, 1);
}

TEST(EffectiveTrials, SamplesOfOneProblemAreNotIndependent) {
  EXPECT_DOUBLE_EQ(EffectiveTrials({1, 0, 1, 0}, 4), 4);  // one each
  // Eight samples each that always agree are worth one.
  EXPECT_NEAR(EffectiveTrials({1, 0, 1, 0, 1, 0, 1, 0}, 64), 8, 1.01);
  // Problems that are alike: every sample counts.
  EXPECT_NEAR(EffectiveTrials({0.5, 0.5, 0.5, 0.5001}, 32), 32, 1e-9);
  EXPECT_DOUBLE_EQ(EffectiveTrials({1, 1, 1}, 24), 3);
  EXPECT_DOUBLE_EQ(EffectiveTrials({}, 0), 0);
}

TEST(Figures, AreMadeOfAllChainsOfAPoint) {
  const Example example;
  const auto figures =
      FiguresOf(example.header, example.points, example.records, {{example.points[3].Key(), 2}});
  ASSERT_EQ(figures.size(), 4u);
  EXPECT_EQ(figures[0].right, 4u);
  EXPECT_DOUBLE_EQ(figures[0].accuracy, 1);
  EXPECT_NEAR(figures[0].bytes_mean_percent, 102, 0.01);
  EXPECT_EQ(figures[0].same_as_full, 4u);
  EXPECT_DOUBLE_EQ(figures[1].accuracy, 0.75);
  EXPECT_EQ(figures[1].same_as_full, 3u);
  EXPECT_EQ(figures[1].cut_off, 1u);
  EXPECT_DOUBLE_EQ(figures[1].tokens_to_full, 1);
  EXPECT_NEAR(figures[1].chain_tokens_per_second, 99.9, 1e-6);
  EXPECT_DOUBLE_EQ(figures[1].live_mean, 500);
  EXPECT_DOUBLE_EQ(figures[2].tokens_to_full, 4750.0 / 4000);
  EXPECT_EQ(figures[2].loops, 2u);
  EXPECT_EQ(figures[3].wanted, 4u);
  EXPECT_EQ(figures[3].chains, 1u);
  EXPECT_EQ(figures[3].lost, 2u);
}

// Against the full cache's chains of the same problems, and of no other.
TEST(Figures, LengthsAreComparedOnTheSameProblems) {
  Example example;
  example.records[0].tokens = 99'999;  // of p-0
  const auto figures = FiguresOf(example.header, example.points,
                                 {example.records[0], example.records[3], example.records[4]}, {});
  ASSERT_EQ(example.records[4].problem, "p-1");
  EXPECT_EQ(figures[1].chains, 1u);
  EXPECT_DOUBLE_EQ(figures[1].tokens_to_full, 1);
}

TEST(Figures, NothingIsNotANumber) {
  const Example example;
  const auto figures = FiguresOf(example.header, example.points, {}, {});
  EXPECT_TRUE(std::isnan(figures[0].accuracy));
  EXPECT_TRUE(std::isnan(figures[0].bytes_mean_percent));
  EXPECT_EQ(figures[0].interval.low, 0);
  EXPECT_EQ(figures[0].interval.high, 1);
}

}  // namespace
}  // namespace palimpsest::cli
