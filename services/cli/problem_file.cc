// SPDX-License-Identifier: Apache-2.0
// The reader of problem files. A file is somebody's input: it is checked to the last key.
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "nlohmann/json.hpp"
#include "services/cli/countdown.h"

namespace palimpsest {
namespace {

using Json = nlohmann::json;

constexpr size_t kFileBytesMax = 64u << 20;
constexpr size_t kProblemsMax = 100'000;
constexpr size_t kPromptBytesMax = 64u << 10;
constexpr uint32_t kChainTokensMax = 1u << 24;
const std::vector<std::string> kKeys = {"id", "numbers", "goal", "prompt", "chain_tokens"};

absl::Status Wrong(absl::string_view message) { return absl::InvalidArgumentError(message); }

absl::StatusOr<int64_t> Integer(const Json& value, absl::string_view key, int64_t min,
                                int64_t max) {
  const bool in_range = value.is_number_integer() &&
                        !(value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX) &&
                        value.get<int64_t>() >= min && value.get<int64_t>() <= max;
  if (in_range) return value.get<int64_t>();
  return Wrong(absl::StrCat(key, ": expected a whole number from ", min, " to ", max));
}

absl::StatusOr<std::string> Text(const Json& value, absl::string_view key, size_t bytes_max) {
  if (value.is_string() && !value.get_ref<const std::string&>().empty() &&
      value.get_ref<const std::string&>().size() <= bytes_max) {
    return value.get<std::string>();
  }
  return Wrong(absl::StrCat(key, ": expected a text of 1 to ", bytes_max, " bytes"));
}

absl::Status CheckKeys(const Json& object) {
  if (!object.is_object()) return Wrong("expected one JSON object a line");
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
  KV_ASSIGN_OR_RETURN(problem.id, Text(object["id"], "id", 128));
  KV_ASSIGN_OR_RETURN(problem.prompt, Text(object["prompt"], "prompt", kPromptBytesMax));
  KV_ASSIGN_OR_RETURN(problem.goal, Integer(object["goal"], "goal", 1, 99));
  const Json& numbers = object["numbers"];
  if (!numbers.is_array() || numbers.size() < 2 || numbers.size() > 8) {
    return Wrong("numbers: expected a list of 2 to 8 whole numbers");
  }
  for (const Json& number : numbers) {
    KV_ASSIGN_OR_RETURN(const int64_t value, Integer(number, "numbers", 1, 99));
    problem.numbers.push_back(static_cast<int>(value));
  }
  if (object.contains("chain_tokens")) {
    KV_ASSIGN_OR_RETURN(problem.chain_tokens,
                        Integer(object["chain_tokens"], "chain_tokens", 1, kChainTokensMax));
  }
  return problem;
}

// The parser below would take the last of two equal keys; a repeated key is an accident to report.
absl::StatusOr<Json> ParseObject(absl::string_view line) {
  std::vector<std::set<std::string>> open;
  std::string repeated;
  const auto watch = [&](int /*depth*/, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) open.emplace_back();
    if (event == Json::parse_event_t::object_end) open.pop_back();
    if (event == Json::parse_event_t::key &&
        !open.back().insert(parsed.get<std::string>()).second) {
      repeated = parsed.get<std::string>();
    }
    return true;
  };
  Json object = Json::parse(line.begin(), line.end(), watch, /*allow_exceptions=*/false);
  if (object.is_discarded()) return Wrong("not a JSON object");
  if (!repeated.empty()) return Wrong(absl::StrCat("the key ", Quoted(repeated), " is repeated"));
  return object;
}

absl::StatusOr<std::string> ReadWholeFile(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) {
    return absl::NotFoundError(absl::StrCat(Escaped(path), ": ", std::strerror(errno)));
  }
  if (!S_ISREG(info.st_mode)) return Wrong(absl::StrCat(Escaped(path), ": is not a file"));
  if (static_cast<uint64_t>(info.st_size) > kFileBytesMax) {
    return Wrong(absl::StrCat(Escaped(path), ": ", info.st_size, " bytes; at most ", kFileBytesMax,
                              " are read"));
  }
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) return Wrong(absl::StrCat(Escaped(path), ": cannot be read"));
  return text.str();
}

}  // namespace

absl::StatusOr<std::vector<CountdownProblem>> ParseProblems(absl::string_view text,
                                                            const std::string& path) {
  std::vector<CountdownProblem> problems;
  std::set<std::string> ids;
  int line_number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++line_number;
    const auto at = [&](const absl::Status& status) {
      return Wrong(absl::StrCat(Escaped(path), ":", line_number, ": ", status.message()));
    };
    if (line.find_first_not_of(" \t\r") == absl::string_view::npos) continue;
    const absl::StatusOr<Json> object = ParseObject(line);
    if (!object.ok()) return at(object.status());
    absl::StatusOr<CountdownProblem> problem = ParseProblem(*object);
    if (!problem.ok()) return at(problem.status());
    if (!ids.insert(problem->id).second) {
      return at(Wrong(absl::StrCat("id ", Quoted(problem->id), " is used twice")));
    }
    if (problems.size() >= kProblemsMax) {
      return at(Wrong(absl::StrCat("more than ", kProblemsMax, " problems")));
    }
    problems.push_back(*std::move(problem));
  }
  if (problems.empty()) return Wrong(absl::StrCat(Escaped(path), ": holds no problem"));
  return problems;
}

absl::StatusOr<std::vector<CountdownProblem>> ReadProblems(const std::string& path) {
  KV_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(path));
  return ParseProblems(text, path);
}

}  // namespace palimpsest
