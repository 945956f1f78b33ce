// SPDX-License-Identifier: Apache-2.0
#include "services/cli/json_lines.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/text.h"

namespace palimpsest {
namespace {

using Json = nlohmann::json;

constexpr size_t kFileBytesMax = 64u << 20;

absl::Status Wrong(absl::string_view message) { return absl::InvalidArgumentError(message); }

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
  if (!object.is_object()) return Wrong("expected one JSON object a line");
  if (!repeated.empty()) return Wrong(absl::StrCat("the key ", Quoted(repeated), " is repeated"));
  return object;
}

}  // namespace

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
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

absl::StatusOr<std::string> ReadTextFile(absl::string_view flag, const std::string& path) {
  absl::StatusOr<std::string> text = ReadTextFile(path);
  if (text.ok()) return text;
  return absl::Status(text.status().code(), absl::StrCat(flag, ": ", text.status().message()));
}

absl::Status ForEachObject(absl::string_view text, const std::string& path,
                           const std::function<absl::Status(const Json&)>& take) {
  int line_number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++line_number;
    if (line.find_first_not_of(" \t\r") == absl::string_view::npos) continue;
    const absl::StatusOr<Json> object = ParseObject(line);
    const absl::Status status = object.ok() ? take(*object) : object.status();
    if (!status.ok()) {
      return Wrong(absl::StrCat(Escaped(path), ":", line_number, ": ", status.message()));
    }
  }
  return absl::OkStatus();
}

std::string LineOf(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

absl::StatusOr<int64_t> WholeNumber(const Json& value, absl::string_view key, int64_t min,
                                    int64_t max) {
  const bool in_range = value.is_number_integer() &&
                        !(value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX) &&
                        value.get<int64_t>() >= min && value.get<int64_t>() <= max;
  if (in_range) return value.get<int64_t>();
  return Wrong(absl::StrCat(key, ": expected a whole number from ", min, " to ", max));
}

absl::StatusOr<std::string> NonEmptyText(const Json& value, absl::string_view key,
                                         size_t bytes_max) {
  if (value.is_string() && !value.get_ref<const std::string&>().empty() &&
      value.get_ref<const std::string&>().size() <= bytes_max) {
    return value.get<std::string>();
  }
  return Wrong(absl::StrCat(key, ": expected a text of 1 to ", bytes_max, " bytes"));
}

}  // namespace palimpsest
