// SPDX-License-Identifier: Apache-2.0
// Files of JSON lines. Those that somebody wrote are read bounded, and told of by line.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace palimpsest {

// NotFound when there is none, InvalidArgument for what is no file, is too large or cannot be read.
absl::StatusOr<std::string> ReadTextFile(const std::string& path);
// The same of a file that a flag names; errors begin with the flag.
absl::StatusOr<std::string> ReadTextFile(absl::string_view flag, const std::string& path);

// Calls `take` for every line that is not blank. An error, of a line that is no JSON object, that
// repeats a key, or of `take`, becomes InvalidArgument that begins with `path:line`.
absl::Status ForEachObject(absl::string_view text, const std::string& path,
                           const std::function<absl::Status(const nlohmann::json&)>& take);

// One line of it, without the end; bytes that are no UTF-8 are replaced.
std::string LineOf(const nlohmann::ordered_json& json);

// A value that must be such; InvalidArgument names the key and what is expected.
absl::StatusOr<int64_t> WholeNumber(const nlohmann::json& value, absl::string_view key, int64_t min,
                                    int64_t max);
absl::StatusOr<std::string> NonEmptyText(const nlohmann::json& value, absl::string_view key,
                                         size_t bytes_max);

}  // namespace palimpsest
