// SPDX-License-Identifier: Apache-2.0
#include "services/cli/eval/problems.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/cli/eval/thoughts.h"

namespace palimpsest::cli {
namespace {

using testing::HasSubstr;

constexpr char kCountdown[] =
    R"({"id": "a", "numbers": [3, 2], "goal": 5, "prompt": "<bos> goal 5 [ 3 2 ]", )"
    R"("chain_tokens": 40})";

std::vector<EvalProblem> Parse(const std::string& text, const ProblemRules& rules = {}) {
  auto problems = ParseEvalProblems(text, "p.jsonl", rules);
  EXPECT_TRUE(problems.ok()) << problems.status();
  return problems.ok() ? *std::move(problems) : std::vector<EvalProblem>();
}

std::string ErrorOf(const std::string& text) {
  return std::string(ParseEvalProblems(text, "p.jsonl", {}).status().message());
}

TEST(EvalProblems, DataSetsAreReadAsTheyArePublished) {
  const ProblemRules rules{.chat = ChatStyle::kChatMl, .instruction = "Think."};
  const auto problems =
      Parse(R"({"id": 60, "problem": "1 + 1?", "solution": "...", "answer": "2", "year": "2024"})"
            "\n\n"
            R"({"unique_id": "test/1.json", "problem": "2 + 2?", "answer": 4, "level": 2})"
            "\n"
            R"({"question": "3?", "answer": 3.5, "chain_tokens": 900})"
            "\n"
            R"({"prompt": "As it is", "answer": "x"})",
            rules);
  ASSERT_EQ(problems.size(), 4u);
  EXPECT_EQ(problems[0].id, "60");
  EXPECT_EQ(problems[0].prompt,
            "<|im_start|>user\n1 + 1?\nThink.<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(problems[1].id, "test/1.json");
  EXPECT_EQ(problems[1].answer, "4");
  EXPECT_EQ(problems[2].id, "problem-3");
  EXPECT_EQ(problems[2].answer, "3.5");
  EXPECT_EQ(problems[2].chain_tokens, 900u);
  EXPECT_EQ(problems[3].prompt, "As it is");
  EXPECT_TRUE(problems[3].add_special);
}

TEST(EvalProblems, ConversationsAreWrittenAsTheModelKnowsThem) {
  const std::string text = R"({"messages": [{"role": "system", "content": "Be brief."}, )"
                           R"({"role": "user", "content": "Hi"}], "answer": "x"})";
  const auto prompt = [&](ChatStyle style) {
    return Parse(text, {.chat = style, .instruction = "unused"})[0].prompt;
  };
  EXPECT_EQ(prompt(ChatStyle::kPlain), "Be brief.\n\nHi");
  EXPECT_EQ(prompt(ChatStyle::kDeepSeek),
            "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Hi<｜Assistant｜><think>\n");
  EXPECT_EQ(prompt(ChatStyle::kLlama3),
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n");
  EXPECT_TRUE(Parse(text, {.chat = ChatStyle::kPlain})[0].add_special);
  EXPECT_FALSE(Parse(text, {.chat = ChatStyle::kLlama3})[0].add_special);
}

TEST(EvalProblems, TheReasonersProblemsAreKnownByTheirFirstLine) {
  const auto problems = Parse(kCountdown);
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_TRUE(problems[0].countdown.has_value());
  EXPECT_FALSE(problems[0].add_special);
  EXPECT_EQ(problems[0].chain_tokens, 40u);
  EXPECT_TRUE(Judge(problems[0], {}, "ans 3 + 2 = 5 ; <eos>").right);
  EXPECT_EQ(Judge(problems[0], {}, "ans 3 + 2 = 5 ;").verdict, "unfinished");
}

TEST(EvalProblems, MistakesAreToldByLine) {
  EXPECT_THAT(ErrorOf(R"({"problem": "x"})"), HasSubstr("p.jsonl:1: the key 'answer' is missing"));
  EXPECT_THAT(ErrorOf(R"({"answer": "x"})"), HasSubstr("expected a key prompt, problem"));
  EXPECT_THAT(ErrorOf(R"({"messages": [], "answer": "x"})"), HasSubstr("list of messages"));
  EXPECT_THAT(ErrorOf(R"({"messages": [{"role": "boss", "content": "x"}], "answer": "x"})"),
              HasSubstr("expected system, user or assistant"));
  EXPECT_THAT(ErrorOf("{\"id\": 1, \"problem\": \"x\", \"answer\": 1}\n"
                      "{\"id\": 1, \"problem\": \"y\", \"answer\": 1}"),
              HasSubstr("p.jsonl:2: id '1' is used twice"));
  EXPECT_THAT(ErrorOf("\n"), HasSubstr("holds no problem"));
  EXPECT_THAT(ErrorOf("{\"problem\": \"x\", \"answer\": 1}\nnonsense"),
              HasSubstr("p.jsonl:2: not a JSON object"));
}

TEST(Judge, AnAnswerIsFoundAndCompared) {
  const EvalProblem problem = Parse(R"({"problem": "x", "answer": "073"})")[0];
  const Judgement right = Judge(problem, {}, "... \\boxed{73}");
  EXPECT_TRUE(right.right);
  EXPECT_EQ(right.answer, "73");
  EXPECT_EQ(Judge(problem, {}, "... \\boxed{74}").verdict, "wrong");
  EXPECT_EQ(Judge(problem, {}, "... 73").verdict, "no-answer");
  EXPECT_EQ(Judge(problem, {}, "\\boxed{\x1b[31m}").answer, "\\x1b[31m");
}

TEST(CountdownThoughts, AreAsTheTaskKnowsThem) {
  const std::string chain =
      "plan [ 23 18 16 ] : 23 + 18 = 41 ; . 23 + 18 = 41 [ 41 16 ] 41 + 16 = 57 no dead [ 9 ] "
      "back [ 9 8 ] : 9 + 8 = 17 ; . try 9 - 8 = 1 got [ 1 ] yes ans 1 ; <eos>";
  const std::string runs = ToText(CountdownThoughts(chain));
  EXPECT_EQ(runs, "R14E15T17R15");
  EXPECT_EQ(ToText(ParseThoughts(runs)), runs);
  for (const char* const none : {"X4", "R", "4", "R4E"}) EXPECT_TRUE(ParseThoughts(none).empty());
}

TEST(Choose, TakesTheFirstOfTheLengthWanted) {
  std::vector<EvalProblem> problems;
  for (const uint32_t tokens : {500u, 1500u, 2500u, 3500u}) {
    problems.push_back({.id = absl::StrCat(tokens), .prompt = "x", .chain_tokens = tokens});
  }
  const auto ids = [&](const ProblemChoice& choice) {
    std::string out;
    const auto chosen = Choose(problems, choice);
    EXPECT_TRUE(chosen.ok()) << chosen.status();
    for (const EvalProblem& problem : *chosen) out += problem.id + " ";
    return out;
  };
  EXPECT_EQ(ids({}), "500 1500 2500 3500 ");
  EXPECT_EQ(ids({.min_tokens = 1000, .max_tokens = 3000}), "1500 2500 ");
  EXPECT_EQ(ids({.min_tokens = 1000, .limit = 1}), "1500 ");
  EXPECT_EQ(Choose(problems, {.min_tokens = 9000}).status().message(),
            "--min-tokens 9000: no problem's chain is of such a length; they have 500 to 3500 "
            "tokens");
  EXPECT_THAT(Choose(problems, {.min_tokens = 1, .max_tokens = 9}).status().message(),
              HasSubstr("--min-tokens 1, --max-tokens 9: no problem"));
  problems[0].chain_tokens = 0;
  EXPECT_THAT(Choose(problems, {.min_tokens = 1}).status().message(), HasSubstr("chain_tokens"));
}

TEST(HashOf, DiffersWhereProblemsDo) {
  const auto problems = Parse(R"({"problem": "x", "answer": "1"})");
  EXPECT_EQ(HashOf(problems), HashOf(Parse(R"({"answer": 1, "problem": "x"})")));
  EXPECT_NE(HashOf(problems), HashOf(Parse(R"({"problem": "x", "answer": "2"})")));
  EXPECT_NE(HashOf(problems), HashOf(Parse(R"({"problem": "y", "answer": "1"})")));
}

}  // namespace
}  // namespace palimpsest::cli
