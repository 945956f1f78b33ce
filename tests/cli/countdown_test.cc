// SPDX-License-Identifier: Apache-2.0
// The judge decides what the whole project claims, so each way to be wrong has a case.
#include "services/cli/countdown.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace palimpsest {
namespace {

using testing::HasSubstr;

CountdownProblem Problem() {
  return {.id = "p", .numbers = {23, 18, 16}, .goal = 80, .prompt = "<bos> goal 80 [ 23 18 16 ]"};
}

Verdict Judge(absl::string_view answer) { return JudgeAnswer(Problem(), answer); }

TEST(Judge, AcceptsTheAnswerOfTheReadme) {
  EXPECT_EQ(Judge("yes ans 23 - 18 = 5 ; 16 * 5 = 80 ; <eos>"), Verdict::kRight);
}

TEST(Judge, AcceptsAChainWithItsPromptAndIgnoresWhatFollowsItsEnd) {
  EXPECT_EQ(Judge("<bos> goal 80 [ 23 18 16 ] plan no yes ans 23 - 18 = 5 ; 16 * 5 = 80 ; <eos> "
                  "ans 1 <eos>"),
            Verdict::kRight);
}

TEST(Judge, OnlyTheFirstAnswerCounts) {
  EXPECT_EQ(Judge("ans 23 - 18 = 5 ; 16 - 5 = 11 ; <eos> ans 23 - 18 = 5 ; 16 * 5 = 80 ; <eos>"),
            Verdict::kWrongGoal);
}

TEST(Judge, AnEarlierEndDoesNotEndTheAnswer) {
  EXPECT_EQ(Judge("<eos> ans 23 - 18 = 5 ; 16 * 5 = 80 ; <eos>"), Verdict::kRight);
}

TEST(Judge, NamesWhatIsMissing) {
  EXPECT_EQ(Judge(""), Verdict::kNoAnswer);
  EXPECT_EQ(Judge("try 23 - 18 = 5 <eos>"), Verdict::kNoAnswer);
  EXPECT_EQ(Judge("ans 23 - 18 = 5 ; 16 * 5 = 80 ;"), Verdict::kUnfinished);
  EXPECT_EQ(Judge("ans <eos>"), Verdict::kWrongLength);
  EXPECT_EQ(Judge("ans 23 - 18 = 5 ; <eos>"), Verdict::kWrongLength);
  EXPECT_EQ(Judge("ans 23 - 18 = 5 ; 16 * 5 = 80 ; yes <eos>"), Verdict::kWrongLength);
}

TEST(Judge, RefusesMalformedSteps) {
  EXPECT_EQ(Judge("ans 23 - 18 = 5 . 16 * 5 = 80 ; <eos>"), Verdict::kMalformed);
  EXPECT_EQ(Judge("ans 23 - 18 got 5 ; 16 * 5 = 80 ; <eos>"), Verdict::kMalformed);
  EXPECT_EQ(Judge("ans 23 minus 18 = 5 ; 16 * 5 = 80 ; <eos>"), Verdict::kMalformed);
  EXPECT_EQ(Judge("ans 23 - 18 = 05 ; 16 * 5 = 80 ; <eos>"), Verdict::kMalformed);
  EXPECT_EQ(Judge("ans 23 - 18 = -5 ; 16 * 5 = 80 ; <eos>"), Verdict::kMalformed);
  EXPECT_EQ(Judge("ans 23 - ans = 5 ; 16 * 5 = 80 ; <eos>"), Verdict::kMalformed);
}

TEST(Judge, RefusesNumbersThatAreNotAtHand) {
  EXPECT_EQ(Judge("ans 23 - 17 = 6 ; 16 * 5 = 80 ; <eos>"), Verdict::kNotAtHand);
  EXPECT_EQ(Judge("ans 23 - 18 = 5 ; 23 * 5 = 80 ; <eos>"), Verdict::kNotAtHand);
  // One 18 cannot be used twice in one step.
  EXPECT_EQ(Judge("ans 18 + 18 = 36 ; 36 + 23 = 59 ; <eos>"), Verdict::kNotAtHand);
  const CountdownProblem twins = {.id = "t", .numbers = {18, 18}, .goal = 36};
  EXPECT_EQ(JudgeAnswer(twins, "ans 18 + 18 = 36 ; <eos>"), Verdict::kRight);
}

TEST(Judge, RefusesForbiddenSteps) {
  EXPECT_EQ(Judge("ans 18 - 23 = 5 ; 16 * 5 = 80 ; <eos>"), Verdict::kForbidden);
  EXPECT_EQ(Judge("ans 23 / 18 = 1 ; 16 * 5 = 80 ; <eos>"), Verdict::kForbidden);
  EXPECT_EQ(Judge("ans 23 * 18 = 99 ; 16 * 5 = 80 ; <eos>"), Verdict::kForbidden);
  const CountdownProblem with_one = {.id = "o", .numbers = {7, 1}, .goal = 7};
  EXPECT_EQ(JudgeAnswer(with_one, "ans 7 * 1 = 7 ; <eos>"), Verdict::kForbidden);
  EXPECT_EQ(JudgeAnswer(with_one, "ans 7 / 1 = 7 ; <eos>"), Verdict::kForbidden);
  const CountdownProblem twins = {.id = "t", .numbers = {7, 7}, .goal = 1};
  EXPECT_EQ(JudgeAnswer(twins, "ans 7 - 7 = 0 ; <eos>"), Verdict::kForbidden);
  EXPECT_EQ(JudgeAnswer(twins, "ans 7 / 7 = 1 ; <eos>"), Verdict::kRight);
}

TEST(Judge, RefusesWrongArithmeticAndAnotherGoal) {
  EXPECT_EQ(Judge("ans 23 - 18 = 6 ; 16 * 5 = 80 ; <eos>"), Verdict::kWrongResult);
  EXPECT_EQ(Judge("ans 23 - 18 = 5 ; 16 + 5 = 21 ; <eos>"), Verdict::kWrongGoal);
}

std::string ErrorOf(absl::string_view text) {
  return std::string(ParseProblems(text, "p.jsonl").status().message());
}

TEST(ProblemFile, ReadsEveryField) {
  const auto problems = ParseProblems(
      R"({"id": "a", "numbers": [3, 2], "goal": 5, "prompt": "<bos>", "chain_tokens": 77})"
      "\n\n",
      "p.jsonl");
  ASSERT_TRUE(problems.ok()) << problems.status();
  ASSERT_EQ(problems->size(), 1u);
  EXPECT_EQ(problems->front().numbers, (std::vector<int>{3, 2}));
  EXPECT_EQ(problems->front().chain_tokens, 77u);
}

TEST(ProblemFile, SaysFileAndLineOfWhatIsWrong) {
  const std::string good = R"({"id": "a", "numbers": [3, 2], "goal": 5, "prompt": "x"})";
  EXPECT_THAT(ErrorOf(""), HasSubstr("p.jsonl: holds no problem"));
  EXPECT_THAT(ErrorOf(good + "\nnot json\n"), HasSubstr("p.jsonl:2: not a JSON object"));
  EXPECT_THAT(ErrorOf(good + "\n" + good), HasSubstr("p.jsonl:2: id 'a' is used twice"));
  EXPECT_THAT(ErrorOf("[1]"), HasSubstr("p.jsonl:1: expected one JSON object a line"));
  EXPECT_THAT(ErrorOf(R"({"id": "a", "goals": 5})"),
              HasSubstr("p.jsonl:1: unknown key 'goals'; did you mean goal?"));
  EXPECT_THAT(ErrorOf(R"({"id": "a", "id": "b"})"), HasSubstr("the key 'id' is repeated"));
  EXPECT_THAT(ErrorOf(R"({"id": "a", "numbers": [3, 2], "goal": 5})"),
              HasSubstr("the key 'prompt' is missing"));
  EXPECT_THAT(ErrorOf(R"({"id": "a", "numbers": [3], "goal": 5, "prompt": "x"})"),
              HasSubstr("numbers: expected a list of 2 to 8"));
  EXPECT_THAT(ErrorOf(R"({"id": "a", "numbers": [3, 2.5], "goal": 5, "prompt": "x"})"),
              HasSubstr("numbers: expected a whole number from 1 to 99"));
  EXPECT_THAT(ErrorOf(R"({"id": "a", "numbers": [3, 2], "goal": 1e99, "prompt": "x"})"),
              HasSubstr("goal: expected a whole number"));
  EXPECT_THAT(ErrorOf(R"({"id": "", "numbers": [3, 2], "goal": 5, "prompt": "x"})"),
              HasSubstr("id: expected a text"));
}

TEST(ProblemFile, RefusesWhatIsNoFile) {
  EXPECT_THAT(std::string(ReadProblems("/nonexistent/x").status().message()),
              HasSubstr("/nonexistent/x: No such file"));
  EXPECT_THAT(std::string(ReadProblems("/tmp").status().message()), HasSubstr("is not a file"));
}

TEST(ProblemFile, TheHeldOutProblemsAreReadable) {
  const auto problems = ReadProblems("lab/reasoner/problems/heldout.jsonl");
  ASSERT_TRUE(problems.ok()) << problems.status();
  EXPECT_EQ(problems->size(), 512u);
}

}  // namespace
}  // namespace palimpsest
