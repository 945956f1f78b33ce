// SPDX-License-Identifier: Apache-2.0
#include "services/cli/eval/answer.h"

#include <numeric>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/cli/eval/loop.h"

namespace palimpsest::cli {
namespace {

using testing::HasSubstr;

std::string Find(const std::string& rule, const std::string& text) {
  const auto parsed = ParseAnswerRule(rule);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(ToString(*parsed), rule);
  return FindAnswer(*parsed, text).value_or("(none)");
}

TEST(FindAnswer, TheLastBoxThatIsClosedCounts) {
  EXPECT_EQ(Find("boxed", "first \\boxed{1}, no: \\boxed{\\frac{1}{2}}."), "\\frac{1}{2}");
  EXPECT_EQ(Find("boxed", "so \\boxed {x^{2}}"), "x^{2}");
  EXPECT_EQ(Find("boxed", "\\boxed{7} and, cut off, \\boxed{\\frac{1"), "7");
  EXPECT_EQ(Find("boxed", "\\fbox{8}"), "8");
  EXPECT_EQ(Find("boxed", "boxed 7"), "(none)");
  EXPECT_EQ(Find("boxed", "\\boxed"), "(none)");
  EXPECT_EQ(Find("boxed", ""), "(none)");
}

TEST(FindAnswer, AMarkerGivesTheRestOfItsLine) {
  EXPECT_EQ(Find("after:Answer:", "Answer: 3\nno.\n**Answer:** 42 \nbye"), "42");
  EXPECT_EQ(Find("after:Answer:", "Answer: **1/2**"), "1/2");
  EXPECT_EQ(Find("after:Answer:", "Answer:\n4"), "(none)");
}

TEST(FindAnswer, APatternGivesItsGroupOrAllOfIt) {
  EXPECT_EQ(Find("regex:is (\\d+)", "it is 4, it is 5"), "5");
  EXPECT_EQ(Find("regex:\\d+", "4 5 x"), "5");
  EXPECT_EQ(Find("regex:\\d+", std::string(100'000, 'a') + "6"), "6");
  EXPECT_EQ(Find("regex:\\d+", "none"), "(none)");
}

TEST(ParseAnswerRule, SaysWhatIsAllowed) {
  EXPECT_THAT(ParseAnswerRule("box").status().message(), HasSubstr("expected boxed, after:TEXT"));
  EXPECT_FALSE(ParseAnswerRule("after:").ok());
  EXPECT_THAT(ParseAnswerRule("regex:(").status().message(), HasSubstr("no regular expression"));
}

TEST(SameAnswer, WritingDoesNotMatter) {
  const std::vector<std::pair<std::string, std::string>> same = {
      {"073", "73"},
      {" 42. ", "42"},
      {"$\\frac{1}{2}$", "\\dfrac12"},
      {"1/2", "\\frac{1}{2}"},
      {"-1/2", "-\\frac{1}{2}"},
      {"0.5", "\\frac12"},
      {"1,234,567", "1234567"},
      {"\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\frac{\\pi}{2})"},
      {"\\text{Evelyn}", "evelyn"},
      {"(C)", "\\text{(C)}"},
      {"x=5", "5"},
      {"90^\\circ", "90"},
      {"50\\%", "50"},
      {"\\$18.90", "18.9"},
      {"+3", "3"},
      {"x = \\frac{3}{4}", "0.75"},
  };
  for (const auto& [found, wanted] : same) {
    EXPECT_TRUE(SameAnswer(found, wanted))
        << found << " as " << Normalised(found) << ", " << wanted << " as " << Normalised(wanted);
    EXPECT_TRUE(SameAnswer(wanted, found));
  }
}

TEST(SameAnswer, MeaningDoes) {
  const std::vector<std::pair<std::string, std::string>> different = {
      {"73", "37"},    {"(3,4)", "34"},    {"1/2", "1/3"}, {"", ""},       {"-5", "5"},
      {"1,23", "123"}, {"\\sqrt{2}", "2"}, {"x", "y"},     {"12.", "1.2"}, {"\\frac{1}{0}", "1"},
  };
  for (const auto& [found, wanted] : different) {
    EXPECT_FALSE(SameAnswer(found, wanted)) << found << " and " << wanted;
  }
}

TEST(EndsInALoop, NGramsThatAreRepeatedAreALoop) {
  std::vector<int32_t> tokens(500);
  std::iota(tokens.begin(), tokens.end(), 0);
  EXPECT_FALSE(EndsInALoop(tokens));
  for (const size_t period : {size_t{1}, size_t{3}, size_t{40}, kLoopPeriodMax}) {
    std::vector<int32_t> looping = tokens;
    const size_t tail = std::max(kLoopTokens, kLoopRepeats * period);
    for (size_t i = 0; i < tail; ++i) looping.push_back(static_cast<int32_t>(1000 + i % period));
    EXPECT_TRUE(EndsInALoop(looping)) << period;
    looping.push_back(7);  // it found its way out
    EXPECT_FALSE(EndsInALoop(looping)) << period;
  }
  EXPECT_FALSE(EndsInALoop({}));
  EXPECT_FALSE(EndsInALoop(std::vector<int32_t>(kLoopTokens - 1, 5)));
  EXPECT_TRUE(EndsInALoop(std::vector<int32_t>(kLoopTokens, 5)));
}

}  // namespace
}  // namespace palimpsest::cli
