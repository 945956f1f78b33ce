// SPDX-License-Identifier: Apache-2.0
#include "services/cli/likelihood/results.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "services/cli/likelihood/report.h"

namespace palimpsest::cli {
namespace {

using testing::HasSubstr;

PointResult Result(const std::string& text, const std::string& policy, double kl) {
  PointResult result;
  result.identity = {.model_fingerprint = "m",
                     .text = text,
                     .text_fingerprint = "f",
                     .prompt_tokens = 32,
                     .policy = policy,
                     .window_tokens = 16,
                     .budget = "64",
                     .formats = "bf16",
                     .aid = ""};
  result.device = "cpu";
  result.tokens = 100;
  result.budget_tokens = 64;
  result.divergence = {.positions = 68,
                       .kl_mean = kl,
                       .kl_mean_last_half = 2 * kl,
                       .kl_p95 = 3 * kl,
                       .agreement = 0.5,
                       .surprise_mean = 2,
                       .full_surprise_mean = 1};
  result.bytes_percent_mean = 10;
  result.live_tokens_mean = 33;
  return result;
}

std::string Slurp(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

class ResultFileTest : public testing::Test {
 protected:
  void SetUp() override { std::remove(path_.c_str()); }
  const std::string path_ = testing::TempDir() + "/results_" +
                            testing::UnitTest::GetInstance()->current_test_info()->name() +
                            ".jsonl";
};

TEST_F(ResultFileTest, WhatWasAddedIsFoundByTheNextOne) {
  const PointResult result = Result("a", "random", 0.1 + 1e-17);
  {
    ResultFile file;
    ASSERT_TRUE(file.Open(path_).ok());
    EXPECT_EQ(file.Find(result.identity), nullptr);
    ASSERT_TRUE(file.Add(result).ok());
  }
  ResultFile file;
  ASSERT_TRUE(file.Open(path_).ok());
  const PointResult* found = file.Find(result.identity);
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(ToJsonLine(*found), ToJsonLine(result));
  EXPECT_EQ(found->divergence.kl_mean, result.divergence.kl_mean);
  PointIdentity other = result.identity;
  other.budget = "65";
  EXPECT_EQ(file.Find(other), nullptr);
  other = result.identity;
  other.every = 4;
  EXPECT_EQ(file.Find(other), nullptr);
}

TEST_F(ResultFileTest, ALineThatWasCutOffIsDroppedAndWrittenAgain) {
  const PointResult whole = Result("a", "random", 0.1), torn = Result("b", "random", 0.2);
  const std::string line = ToJsonLine(torn);
  std::ofstream(path_) << ToJsonLine(whole) << "\n" << line.substr(0, line.size() / 2);
  ResultFile file;
  ASSERT_TRUE(file.Open(path_).ok());
  EXPECT_NE(file.Find(whole.identity), nullptr);
  EXPECT_EQ(file.Find(torn.identity), nullptr);
  ASSERT_TRUE(file.Add(torn).ok());
  EXPECT_EQ(Slurp(path_), ToJsonLine(whole) + "\n" + line + "\n");
}

TEST_F(ResultFileTest, AFileOfSomethingElseIsRefusedAndLeftAlone) {
  std::ofstream(path_) << "{\"text\": \"a\"}\n";
  ResultFile file;
  const absl::Status status = file.Open(path_);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(":1: "));
  EXPECT_EQ(Slurp(path_), "{\"text\": \"a\"}\n");
}

TEST_F(ResultFileTest, AFolderThatIsNotThereIsNamed) {
  ResultFile file;
  EXPECT_THAT(std::string(file.Open("/nowhere/r.jsonl").message()), HasSubstr("/nowhere/r.jsonl"));
}

TEST(LikelihoodReportTest, TextsCountTheSameAndTheirSpreadIsTheError) {
  const std::vector<LikelihoodFigures> figures = FiguresOf(
      {Result("a", "random", 0.1), Result("a", "window", 1.0), Result("b", "random", 0.3)});
  ASSERT_EQ(figures.size(), 2u);
  EXPECT_EQ(figures[0].policy, "random");
  EXPECT_EQ(figures[0].kl_by_text.size(), 2u);
  EXPECT_EQ(figures[0].positions, 136u);
  EXPECT_DOUBLE_EQ(figures[0].kl_mean, 0.2);
  EXPECT_NEAR(figures[0].kl_interval.low, 0.2 - 12.706 * 0.1, 1e-12);  // sqrt(0.02 / 2)
  EXPECT_NEAR(figures[0].kl_interval.high, 0.2 + 12.706 * 0.1, 1e-12);
  EXPECT_DOUBLE_EQ(figures[0].full_perplexity, std::exp(1.0));
  EXPECT_TRUE(std::isinf(figures[1].kl_interval.high));
  LikelihoodFacts facts;
  facts.texts = {"a", "b"};
  EXPECT_THAT(LikelihoodTable(facts, figures, 200), HasSubstr("random"));
  EXPECT_THAT(LikelihoodJsonLines(facts, figures), HasSubstr("\"kl_low\":null"));
  EXPECT_THAT(LikelihoodJsonLines(facts, figures), HasSubstr("\"kl_by_text\":[1.0,null]"));
  EXPECT_THAT(DrawDivergence(facts, figures), HasSubstr("random"));
}

}  // namespace
}  // namespace palimpsest::cli
