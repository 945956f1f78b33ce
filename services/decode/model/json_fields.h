// SPDX-License-Identifier: Apache-2.0
// Typed, range-checked reading of JSON that came from outside (config.json, tokenizer.json,
// safetensors headers). Nothing here throws; every error names the key, what was found and what is
// allowed. Used by services/decode/model only.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace palimpsest {

// A key with its inclusive bounds. A double-bounded pair so that call sites read as a table.
struct IntField {
  absl::string_view key;
  int64_t min;
  int64_t max;
};
struct RealField {
  absl::string_view key;
  double min;
  double max;
};

// Parses a whole text. InvalidArgument with `what` (a file name) when it is not JSON. Nesting is
// bounded, so hostile depth cannot exhaust the stack of a later walk.
absl::StatusOr<nlohmann::json> ParseJson(absl::string_view text, absl::string_view what);

// "key: found <value>, allowed <allowed>" as InvalidArgument.
absl::Status FieldError(absl::string_view key, const nlohmann::json& found,
                        absl::string_view allowed);

// The value of a key, or null when the key is absent or JSON null.
const nlohmann::json* FindField(const nlohmann::json& object, absl::string_view key);

// A required value of the type and range. InvalidArgument otherwise.
absl::StatusOr<int64_t> ReadInt(const nlohmann::json& object, const IntField& field);
absl::StatusOr<double> ReadReal(const nlohmann::json& object, const RealField& field);
absl::StatusOr<std::string> ReadString(const nlohmann::json& object, absl::string_view key);

// The same with a value for "absent or null".
absl::StatusOr<int64_t> ReadIntOr(const nlohmann::json& object, const IntField& field,
                                  int64_t fallback);
absl::StatusOr<double> ReadRealOr(const nlohmann::json& object, const RealField& field,
                                  double fallback);
absl::StatusOr<bool> ReadBoolOr(const nlohmann::json& object, absl::string_view key, bool fallback);

}  // namespace palimpsest
