// SPDX-License-Identifier: Apache-2.0
#include "services/cli/likelihood/grid.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace palimpsest::cli {
namespace {

using testing::HasSubstr;

std::string Refusal(const GridSettings& settings) {
  const auto points = MakeGrid(settings);
  if (points.ok()) return "";
  EXPECT_EQ(points.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(points.status().message());
}

TEST(LikelihoodGridTest, EveryPolicyMeetsEveryBudgetInEveryFormat) {
  const auto points = MakeGrid({.policy = {"random", "full"},
                                .budget = {"128", "256"},
                                .bytes = {"5"},
                                .formats = {"bf16", "fp8"}});
  ASSERT_TRUE(points.ok()) << points.status();
  std::vector<std::string> names;
  for (const GridPoint& point : *points) {
    names.push_back(point.spec.name + " " + point.BudgetLabel() + " " +
                    ToString(point.spec.formats));
  }
  EXPECT_THAT(names, testing::ElementsAre("random 128 bf16", "random 256 bf16", "random 5% bf16",
                                          "random 128 fp8", "random 256 fp8", "random 5% fp8",
                                          "full - fp8"));
}

TEST(LikelihoodGridTest, WhatCannotBeIsNamed) {
  EXPECT_THAT(Refusal({.policy = {"full"}}), HasSubstr("nothing to compare"));
  EXPECT_THAT(Refusal({.policy = {"windw"}, .budget = {"64"}}), HasSubstr("--policy"));
  EXPECT_THAT(Refusal({.policy = {"random"}, .budget = {"many"}}), HasSubstr("--budget: 'many'"));
  EXPECT_THAT(Refusal({.policy = {"window"}, .budget = {"8"}}), HasSubstr("--budget"));
  EXPECT_THAT(Refusal({.policy = {"random"}, .bytes = {"0"}}), HasSubstr("--bytes: '0'"));
  EXPECT_THAT(Refusal({.policy = {"random"}, .bytes = {"nan"}}), HasSubstr("--bytes"));
  EXPECT_THAT(Refusal({.policy = {"random"}, .budget = {"64"}, .formats = {"fp9"}}),
              HasSubstr("--formats"));
  EXPECT_THAT(Refusal({.policy = {"random"}, .budget = {"64", "64"}}), HasSubstr("given twice"));
}

}  // namespace
}  // namespace palimpsest::cli
