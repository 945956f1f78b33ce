// SPDX-License-Identifier: Apache-2.0
// The reader of problem files. A file is somebody's input: it is checked to the last key.
#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "services/cli/countdown.h"
#include "services/cli/json_lines.h"

namespace palimpsest {
namespace {

using Json = nlohmann::json;

constexpr size_t kProblemsMax = 100'000;
constexpr size_t kPromptBytesMax = 64u << 10;
constexpr uint32_t kChainTokensMax = 1u << 24;
const std::vector<std::string> kKeys = {"id", "numbers", "goal", "prompt", "chain_tokens"};

absl::Status Wrong(absl::string_view message) { return absl::InvalidArgumentError(message); }

absl::Status CheckKeys(const Json& object) {
  for (const auto& [key, value] : object.items()) {
    if (std::find(kKeys.begin(), kKeys.end(), key) != kKeys.end()) continue;
    const std::string nearest = Nearest(key, kKeys);
    return Wrong(absl::StrCat("unknown key ", Quoted(key),
                              nearest.empty() ? "; allowed: id, numbers, goal, prompt, chain_tokens"
                                              : absl::StrCat("; did you mean ", nearest, "?")));
  }
  for (const std::string& key : kKeys) {
    if (key != "chain_tokens" && !object.contains(key)) {
      return Wrong(absl::StrCat("the key '", key, "' is missing"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<CountdownProblem> ParseProblem(const Json& object) {
  KV_RETURN_IF_ERROR(CheckKeys(object));
  CountdownProblem problem;
  KV_ASSIGN_OR_RETURN(problem.id, NonEmptyText(object["id"], "id", 128));
  KV_ASSIGN_OR_RETURN(problem.prompt, NonEmptyText(object["prompt"], "prompt", kPromptBytesMax));
  KV_ASSIGN_OR_RETURN(problem.goal, WholeNumber(object["goal"], "goal", 1, 99));
  const Json& numbers = object["numbers"];
  if (!numbers.is_array() || numbers.size() < 2 || numbers.size() > 8) {
    return Wrong("numbers: expected a list of 2 to 8 whole numbers");
  }
  for (const Json& number : numbers) {
    KV_ASSIGN_OR_RETURN(const int64_t value, WholeNumber(number, "numbers", 1, 99));
    problem.numbers.push_back(static_cast<int>(value));
  }
  if (object.contains("chain_tokens")) {
    KV_ASSIGN_OR_RETURN(problem.chain_tokens,
                        WholeNumber(object["chain_tokens"], "chain_tokens", 1, kChainTokensMax));
  }
  return problem;
}

}  // namespace

absl::StatusOr<std::vector<CountdownProblem>> ParseProblems(absl::string_view text,
                                                            const std::string& path) {
  std::vector<CountdownProblem> problems;
  std::set<std::string> ids;
  KV_RETURN_IF_ERROR(ForEachObject(text, path, [&](const Json& object) -> absl::Status {
    KV_ASSIGN_OR_RETURN(CountdownProblem problem, ParseProblem(object));
    if (!ids.insert(problem.id).second) {
      return Wrong(absl::StrCat("id ", Quoted(problem.id), " is used twice"));
    }
    if (problems.size() >= kProblemsMax) {
      return Wrong(absl::StrCat("more than ", kProblemsMax, " problems"));
    }
    problems.push_back(std::move(problem));
    return absl::OkStatus();
  }));
  if (problems.empty()) return Wrong(absl::StrCat(Escaped(path), ": holds no problem"));
  return problems;
}

absl::StatusOr<std::vector<CountdownProblem>> ReadProblems(const std::string& path) {
  KV_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  return ParseProblems(text, path);
}

}  // namespace palimpsest
