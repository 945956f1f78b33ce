// SPDX-License-Identifier: Apache-2.0
// The problems of an evaluation, and the judge of what is said to them. Two kinds of files, told
// apart by their first line: the Countdown problems of lab/reasoner, and any JSON lines with a
// question and an answer, as AIME and MATH-500 are published.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/cli/countdown.h"
#include "services/cli/eval/answer.h"
#include "services/cli/eval/chat.h"

namespace palimpsest::cli {

struct EvalProblem {
  std::string id = {};
  std::string prompt = {};    // as the model reads it
  bool add_special = false;   // the tokenizer is to add its begin token
  uint32_t chain_tokens = 0;  // of a reference chain, prompt included; 0: not known
  std::string answer = {};    // wanted; unless it is a Countdown problem
  std::optional<CountdownProblem> countdown = std::nullopt;
};

struct ProblemRules {
  ChatStyle chat = ChatStyle::kPlain;  // not kAuto
  std::string instruction = {};        // added to a question; not to a prompt
};

// Every line has `prompt` (a text, read as it stands), or `problem` or `question` (asked as a user
// with the instruction after it), or `messages` ([{role, content}]); and `answer`, a text or a
// number. `id` or `unique_id` names it, else its line does. `chain_tokens` is optional. Other keys
// are left alone: data sets have many. InvalidArgument says path:line.
absl::StatusOr<std::vector<EvalProblem>> ParseEvalProblems(absl::string_view text,
                                                           const std::string& path,
                                                           const ProblemRules& rules);

struct ProblemChoice {
  uint32_t min_tokens = 0;  // of the reference chain
  uint32_t max_tokens = 0;  // 0: no bound
  uint32_t limit = 0;       // the first so many of them; 0: all
};
// InvalidArgument when nothing is left, or lengths are asked for that the file does not tell.
absl::StatusOr<std::vector<EvalProblem>> Choose(std::vector<EvalProblem> problems,
                                                const ProblemChoice& choice);

// 16 hex digits that differ where prompts, answers or their order do.
std::string HashOf(const std::vector<EvalProblem>& problems);

struct Judgement {
  bool right = false;
  std::string verdict;  // "right", "wrong", "no-answer", or a Countdown verdict
  std::string answer;   // found; empty for Countdown
};
Judgement Judge(const EvalProblem& problem, const AnswerRule& rule, absl::string_view chain);

}  // namespace palimpsest::cli
