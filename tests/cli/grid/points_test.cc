// SPDX-License-Identifier: Apache-2.0
// The grid, and the budgets that shares of bytes come to.
#include "services/cli/grid/points.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/cli/byte_budget.h"
#include "services/cli/eval/plan.h"

namespace palimpsest::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr CacheShape kReasoner = {.layers = 8, .kv_heads = 2, .head_dim = 64};
const CacheCosts kCosts = {.shape = kReasoner, .query_heads = 4};
constexpr ChainLength kChains[] = {{10, 1200}, {10, 4000}, {12, 9000}};

std::vector<std::string> Labels(const GridChoice& choice) {
  const auto points = MakeGrid(choice);
  EXPECT_TRUE(points.ok()) << points.status();
  std::vector<std::string> labels;
  for (const GridPoint& point : *points) {
    labels.push_back(point.target_percent.has_value()
                         ? absl::StrCat(point.spec.name, " ", *point.target_percent, "% ",
                                        ToString(point.spec.formats))
                         : point.Label());
  }
  return labels;
}

std::string Refusal(const GridChoice& choice) {
  const auto points = MakeGrid(choice);
  EXPECT_EQ(points.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(points.status().message());
}

double PercentAt(const std::string& policy, uint32_t budget) {
  PolicySpec spec = DefaultSpec(policy).value();
  if (budget > 0) spec.budget_tokens = budget;
  const auto percent = MeanBytesPercent(spec, kCosts, kChains);
  EXPECT_TRUE(percent.ok()) << percent.status();
  return percent.value_or(-1);
}

TEST(MakeGrid, EveryPolicyMeetsEveryBudgetAndWhatHasNoBoundStandsOnce) {
  EXPECT_THAT(Labels({.policy = {"full", "window"}, .budget = {"64", "128"}, .bytes = {"5"}}),
              ElementsAre("full", "window 5% bf16", "window k=64", "window k=128"));
}

TEST(MakeGrid, FormatsOfOnesOwnAreNotNamedAndEqualPointsStandOnce) {
  EXPECT_THAT(
      Labels({.policy = {"window"},
              .budget = {"64"},
              .formats = {"default", "bf16", "nvfp4/ternary", "R=bf16", "E=fp8", "T=fp8"}}),
      ElementsAre("window k=64", "window k=64 nvfp4/ternary", "window k=64 R=bf16,E=fp8,T=fp8"));
}

TEST(MakeGrid, WindowsAreOfPoliciesThatEvictAndNamedWhereTheyAreNotTheirOwn) {
  EXPECT_THAT(Labels({.policy = {"full", "rkv"}, .budget = {"64"}, .windows = {"128", "64"}}),
              ElementsAre("full", "rkv k=64", "rkv k=64 tau=64"));
}

TEST(MakeGrid, ABudgetIsTokensOrAShareOrNothing) {
  const auto points = MakeGrid({.policy = {"full", "window"}, .budget = {"64"}, .bytes = {"2.5"}});
  ASSERT_TRUE(points.ok());
  ASSERT_EQ(points->size(), 3u);
  EXPECT_EQ((*points)[0].BudgetLabel(), "-");
  EXPECT_EQ((*points)[1].BudgetLabel(), "2.5%");
  EXPECT_EQ((*points)[2].BudgetLabel(), "64");
}

TEST(MakeGrid, OnlyTheFullCacheInBf16IsTheYardstick) {
  const auto points = MakeGrid({.policy = {"full"}, .formats = {"bf16", "nvfp4"}});
  ASSERT_TRUE(points.ok());
  ASSERT_EQ(points->size(), 2u);
  EXPECT_TRUE((*points)[0].is_full());
  EXPECT_FALSE((*points)[1].is_full());
  EXPECT_NE((*points)[0].Key(), (*points)[1].Key());
}

TEST(MakeGrid, WhatCannotBeIsNamed) {
  EXPECT_THAT(Refusal({.policy = {"windw"}}), HasSubstr("--policy: policy 'windw'"));
  EXPECT_THAT(Refusal({.policy = {"window"}}), HasSubstr("--budget or --bytes: policy window"));
  EXPECT_THAT(Refusal({.policy = {"window"}, .budget = {"32"}}), HasSubstr("--budget"));
  EXPECT_THAT(Refusal({.policy = {"full"}, .formats = {"int3"}}), HasSubstr("--formats"));
  EXPECT_THAT(Refusal({.policy = {"longflow"}, .budget = {"64"}, .windows = {"64"}}),
              HasSubstr("--windows: window_tokens 64: policy 'longflow'"));
}

// Of every list, whether or not a policy looks at it.
TEST(MakeGrid, EveryItemIsCheckedAndItsRangeTold) {
  for (const char* const policy : {"full", "rkv"}) {
    for (const char* const budget : {"many", "-5", "0", "15", "99999999999"}) {
      EXPECT_THAT(Refusal({.policy = {policy}, .budget = {"64", budget}}),
                  HasSubstr(absl::StrCat("--budget: '", budget, "' is not a number of tokens from ",
                                         "16 to 16777216")));
    }
    for (const char* const bytes : {"0", "101", "nan", "x"}) {
      EXPECT_THAT(Refusal({.policy = {policy}, .bytes = {bytes}}),
                  HasSubstr(absl::StrCat("--bytes: '", bytes, "' is not a percentage")));
    }
    for (const char* const window : {"x", "7", "-16", "8192"}) {
      EXPECT_THAT(Refusal({.policy = {policy}, .budget = {"64"}, .windows = {window}}),
                  HasSubstr(absl::StrCat("--windows: '", window, "' is not a multiple of 16")));
    }
  }
}

TEST(ByteBudget, ComesNearToWhatIsAskedForUnderEveryPolicy) {
  for (const std::string& policy : PolicyNames()) {
    if (policy == "full") continue;
    double before = 0;
    for (const double percent : {8.0, 14.0, 28.0}) {
      const auto budget = BudgetForBytes(DefaultSpec(policy).value(), kCosts, kChains, percent);
      ASSERT_TRUE(budget.ok()) << policy << ": " << budget.status();
      EXPECT_NEAR(budget->percent, percent, 0.05 * percent) << policy;
      EXPECT_DOUBLE_EQ(PercentAt(policy, budget->budget_tokens), budget->percent) << policy;
      EXPECT_GT(budget->budget_tokens, before) << policy;
      before = budget->budget_tokens;
    }
  }
}

TEST(ByteBudget, ForeseesLanesThatShareABudgetUnevenly) {
  CacheCosts costs = kCosts;
  for (int lane = 0; lane < kReasoner.lanes(); ++lane) {
    costs.lane_shares.push_back(lane % 2 == 0 ? 0.25f : 1.75f);
  }
  PolicySpec spec = DefaultSpec("anticipate").value();
  for (const double percent : {3.0, 8.0, 14.0}) {
    const auto budget = BudgetForBytes(spec, costs, kChains, percent);
    ASSERT_TRUE(budget.ok()) << budget.status();
    EXPECT_NEAR(budget->percent, percent, 0.05 * percent);
    spec.budget_tokens = budget->budget_tokens;
    const double even = MeanBytesPercent(spec, kCosts, kChains).value();
    // Lanes of small share evict before others are full, so long chains alone hold as much.
    EXPECT_LT(budget->percent, 1.02 * even);
    EXPECT_GT(budget->percent, 0.85 * even);
    costs.plan_lag_tokens = 16;
    EXPECT_GT(MeanBytesPercent(spec, costs, kChains).value(), budget->percent);
    costs.plan_lag_tokens = 0;
    PolicySpec random = DefaultSpec("random").value();
    random.budget_tokens = spec.budget_tokens;
    EXPECT_EQ(MeanBytesPercent(random, costs, kChains).value(),
              MeanBytesPercent(random, kCosts, kChains).value());
  }
}

TEST(ByteBudget, WhatQuantisationNeverReachesGivesABudgetThatEvictsNothing) {
  const auto budget = BudgetForBytes(DefaultSpec("thinkv").value(), kCosts, kChains, 40);
  ASSERT_TRUE(budget.ok()) << budget.status();
  EXPECT_LT(budget->percent, 32);
  EXPECT_GE(budget->budget_tokens, 9000u);
}

TEST(ByteBudget, WhatIsOutOfReachGivesTheLeast) {
  const PolicySpec spec = DefaultSpec("window").value();
  const auto budget = BudgetForBytes(spec, kCosts, {{{10, 300}}}, 1);
  ASSERT_TRUE(budget.ok()) << budget.status();
  EXPECT_GT(budget->percent, 1);
  PolicySpec smaller = spec;
  smaller.budget_tokens = budget->budget_tokens - 1;
  EXPECT_FALSE(NewPolicy(smaller).ok());
}

TEST(ByteBudget, CountsEverythingThatAChainHolds) {
  // K, V and positions, the open group of 16 tokens, and pages that are not full.
  EXPECT_GT(PercentAt("full", 0), 101);
  EXPECT_LT(PercentAt("full", 0), 103);
  // A float a slot; eight queries.
  EXPECT_GT(PercentAt("h2o", 512), PercentAt("random", 512));
  EXPECT_GT(PercentAt("rkv", 512), PercentAt("random", 512));
}

TEST(GroupPoints, NoPolicyPaysForWhatOnlyOthersNeed) {
  const auto points =
      MakeGrid({.policy = {"h2o", "full", "rkv", "longflow", "anticipate"}, .budget = {"64"}});
  ASSERT_TRUE(points.ok());
  const std::vector<WorkerGroup> groups = GroupPoints(*points);
  ASSERT_EQ(groups.size(), 3u);
  EXPECT_THAT(groups[0].policies, ElementsAre("full", "rkv"));
  EXPECT_THAT(groups[0].points, ElementsAre(1, 2));
  EXPECT_THAT(groups[1].policies, ElementsAre("anticipate"));       // what it evicts is summed
  EXPECT_THAT(groups[2].policies, ElementsAre("h2o", "longflow"));  // slots have scores
}

}  // namespace
}  // namespace palimpsest::cli
