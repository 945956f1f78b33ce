// SPDX-License-Identifier: Apache-2.0
#include "services/cli/eval/problems.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "services/cli/fnv.h"
#include "services/cli/json_lines.h"

namespace palimpsest::cli {
namespace {

using Json = nlohmann::json;

constexpr size_t kTextBytesMax = 1u << 20;
constexpr size_t kAnswerBytesMax = 4096;
constexpr size_t kProblemsMax = 100'000;

absl::Status Wrong(absl::string_view message) { return absl::InvalidArgumentError(message); }

absl::StatusOr<std::vector<ChatMessage>> Messages(const Json& list) {
  if (!list.is_array() || list.empty()) return Wrong("messages: expected a list of messages");
  std::vector<ChatMessage> messages;
  for (const Json& item : list) {
    if (!item.is_object() || !item.contains("role") || !item.contains("content")) {
      return Wrong("messages: expected objects with role and content");
    }
    ChatMessage message;
    KV_ASSIGN_OR_RETURN(message.role, NonEmptyText(item["role"], "role", 32));
    if (message.role != "system" && message.role != "user" && message.role != "assistant") {
      return Wrong(
          absl::StrCat("role ", Quoted(message.role), ": expected system, user or assistant"));
    }
    KV_ASSIGN_OR_RETURN(message.text, NonEmptyText(item["content"], "content", kTextBytesMax));
    messages.push_back(std::move(message));
  }
  return messages;
}

absl::Status ReadPrompt(const Json& object, const ProblemRules& rules, EvalProblem* problem) {
  if (object.contains("prompt") && object["prompt"].is_string()) {
    problem->add_special = true;
    KV_ASSIGN_OR_RETURN(problem->prompt, NonEmptyText(object["prompt"], "prompt", kTextBytesMax));
    return absl::OkStatus();
  }
  std::vector<ChatMessage> messages;
  for (const char* const key : {"messages", "prompt"}) {
    if (!object.contains(key)) continue;
    KV_ASSIGN_OR_RETURN(messages, Messages(object[key]));
    break;
  }
  for (const char* const key : {"problem", "question"}) {
    if (!messages.empty() || !object.contains(key)) continue;
    KV_ASSIGN_OR_RETURN(std::string text, NonEmptyText(object[key], key, kTextBytesMax));
    if (!rules.instruction.empty()) absl::StrAppend(&text, "\n", rules.instruction);
    messages.push_back({"user", std::move(text)});
  }
  if (messages.empty()) {
    return Wrong("expected a key prompt, problem, question or messages that says what to ask");
  }
  problem->prompt = ChatText(rules.chat, messages);
  problem->add_special = !WritesBeginToken(rules.chat);
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadAnswer(const Json& object) {
  if (!object.contains("answer")) return Wrong("the key 'answer' is missing");
  const Json& answer = object["answer"];
  if (answer.is_number()) return answer.dump();
  return NonEmptyText(answer, "answer", kAnswerBytesMax);
}

absl::StatusOr<EvalProblem> ParseProblem(const Json& object, size_t number,
                                         const ProblemRules& rules) {
  EvalProblem problem;
  problem.id = absl::StrCat("problem-", number);
  for (const char* const key : {"unique_id", "id"}) {
    if (!object.contains(key)) continue;
    if (object[key].is_number_integer()) {
      problem.id = object[key].dump();
    } else {
      KV_ASSIGN_OR_RETURN(problem.id, NonEmptyText(object[key], key, 128));
    }
  }
  KV_RETURN_IF_ERROR(ReadPrompt(object, rules, &problem));
  KV_ASSIGN_OR_RETURN(problem.answer, ReadAnswer(object));
  if (object.contains("chain_tokens")) {
    KV_ASSIGN_OR_RETURN(problem.chain_tokens, WholeNumber(object["chain_tokens"], "chain_tokens", 1,
                                                          limits::kPositionMax));
  }
  return problem;
}

// A Countdown file is known by its first line. Its reader is strict, and says what is wrong.
bool IsCountdown(absl::string_view text) {
  const absl::string_view first = text.substr(0, text.find('\n'));
  const Json object = Json::parse(first.begin(), first.end(), nullptr, false);
  return object.is_object() && object.contains("numbers") && object.contains("goal");
}

}  // namespace

absl::StatusOr<std::vector<EvalProblem>> ParseEvalProblems(absl::string_view text,
                                                           const std::string& path,
                                                           const ProblemRules& rules) {
  std::vector<EvalProblem> problems;
  if (IsCountdown(text)) {
    KV_ASSIGN_OR_RETURN(std::vector<CountdownProblem> all, ParseProblems(text, path));
    for (CountdownProblem& one : all) {
      EvalProblem problem{.id = one.id, .prompt = one.prompt, .chain_tokens = one.chain_tokens};
      problem.countdown = std::move(one);
      problems.push_back(std::move(problem));
    }
    return problems;
  }
  std::set<std::string> ids;
  KV_RETURN_IF_ERROR(ForEachObject(text, path, [&](const Json& object) -> absl::Status {
    KV_ASSIGN_OR_RETURN(EvalProblem problem, ParseProblem(object, problems.size() + 1, rules));
    if (!ids.insert(problem.id).second) {
      return Wrong(absl::StrCat("id ", Quoted(problem.id), " is used twice"));
    }
    if (problems.size() == kProblemsMax) {
      return Wrong(absl::StrCat("more than ", kProblemsMax, " problems"));
    }
    problems.push_back(std::move(problem));
    return absl::OkStatus();
  }));
  if (problems.empty()) return Wrong(absl::StrCat(Escaped(path), ": holds no problem"));
  return problems;
}

absl::StatusOr<std::vector<EvalProblem>> Choose(std::vector<EvalProblem> problems,
                                                const ProblemChoice& choice) {
  const bool by_length = choice.min_tokens > 0 || choice.max_tokens > 0;
  std::vector<EvalProblem> chosen;
  for (EvalProblem& problem : problems) {
    if (by_length && problem.chain_tokens == 0) {
      return Wrong(absl::StrCat("--min-tokens, --max-tokens: problem ", Escaped(problem.id),
                                " does not say chain_tokens"));
    }
    const bool fits = problem.chain_tokens >= choice.min_tokens &&
                      (choice.max_tokens == 0 || problem.chain_tokens <= choice.max_tokens);
    const bool room = choice.limit == 0 || chosen.size() < choice.limit;
    if (fits && room) chosen.push_back(std::move(problem));
  }
  if (chosen.empty()) {
    std::string range;
    if (choice.min_tokens > 0) absl::StrAppend(&range, "--min-tokens ", choice.min_tokens);
    if (choice.max_tokens > 0) {
      absl::StrAppend(&range, range.empty() ? "" : ", ", "--max-tokens ", choice.max_tokens);
    }
    const auto [least, most] = std::minmax_element(
        problems.begin(), problems.end(),
        [](const EvalProblem& a, const EvalProblem& b) { return a.chain_tokens < b.chain_tokens; });
    return Wrong(absl::StrCat(range, ": no problem's chain is of such a length; they have ",
                              least->chain_tokens, " to ", most->chain_tokens, " tokens"));
  }
  return chosen;
}

std::string HashOf(const std::vector<EvalProblem>& problems) {
  Fnv hash;
  for (const EvalProblem& problem : problems) {
    for (const std::string& text : {problem.id, problem.prompt, problem.answer}) {
      hash.Add(absl::string_view(text));
    }
  }
  return absl::StrFormat("%016x", hash.value());
}

Judgement Judge(const EvalProblem& problem, const AnswerRule& rule, absl::string_view chain) {
  if (problem.countdown.has_value()) {
    const Verdict verdict = JudgeAnswer(*problem.countdown, chain);
    return {
        .right = verdict == Verdict::kRight, .verdict = std::string(Name(verdict)), .answer = ""};
  }
  const std::optional<std::string> answer = FindAnswer(rule, chain);
  if (!answer.has_value()) return {.right = false, .verdict = "no-answer", .answer = ""};
  const bool right = SameAnswer(*answer, problem.answer);
  return {.right = right, .verdict = right ? "right" : "wrong", .answer = Escaped(*answer, 256)};
}

}  // namespace palimpsest::cli
