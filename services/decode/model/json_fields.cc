// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/json_fields.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace palimpsest {
namespace {

constexpr int kDepthMax = 64;
constexpr size_t kShownBytesMax = 80;

std::string Shown(const nlohmann::json& value) {
  std::string text = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  if (text.size() > kShownBytesMax) text = absl::StrCat(text.substr(0, kShownBytesMax), "...");
  return text;
}

absl::Status Missing(absl::string_view key) {
  return absl::InvalidArgumentError(absl::StrCat(key, ": missing"));
}

}  // namespace

absl::StatusOr<nlohmann::json> ParseJson(absl::string_view text, absl::string_view what) {
  bool too_deep = false;
  auto bound_depth = [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    if (depth > kDepthMax) too_deep = true;
    return !too_deep;  // deeper values are dropped as they are parsed
  };
  nlohmann::json parsed =
      nlohmann::json::parse(text.begin(), text.end(), bound_depth, /*allow_exceptions=*/false);
  if (too_deep) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": JSON nested deeper than ", kDepthMax, " levels"));
  }
  if (parsed.is_discarded()) return absl::InvalidArgumentError(absl::StrCat(what, ": not JSON"));
  return parsed;
}

absl::Status FieldError(absl::string_view key, const nlohmann::json& found,
                        absl::string_view allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat(key, ": found ", Shown(found), ", allowed: ", allowed));
}

const nlohmann::json* FindField(const nlohmann::json& object, absl::string_view key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(std::string(key));
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

absl::StatusOr<int64_t> ReadInt(const nlohmann::json& object, const IntField& field) {
  const nlohmann::json* value = FindField(object, field.key);
  if (value == nullptr) return Missing(field.key);
  const std::string allowed = absl::StrCat("an integer from ", field.min, " to ", field.max);
  if (!value->is_number_integer()) return FieldError(field.key, *value, allowed);
  // get<int64_t> would wrap an unsigned beyond its range.
  if (value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    return FieldError(field.key, *value, allowed);
  }
  const int64_t number = value->get<int64_t>();
  if (number < field.min || number > field.max) return FieldError(field.key, *value, allowed);
  return number;
}

absl::StatusOr<double> ReadReal(const nlohmann::json& object, const RealField& field) {
  const nlohmann::json* value = FindField(object, field.key);
  if (value == nullptr) return Missing(field.key);
  const double number = value->is_number() ? value->get<double>() : std::nan("");
  if (!(number >= field.min && number <= field.max)) {
    return FieldError(field.key, *value,
                      absl::StrCat("a number from ", field.min, " to ", field.max));
  }
  return number;
}

absl::StatusOr<std::string> ReadString(const nlohmann::json& object, absl::string_view key) {
  const nlohmann::json* value = FindField(object, key);
  if (value == nullptr) return Missing(key);
  if (!value->is_string()) return FieldError(key, *value, "a string");
  return value->get<std::string>();
}

absl::StatusOr<int64_t> ReadIntOr(const nlohmann::json& object, const IntField& field,
                                  int64_t fallback) {
  if (FindField(object, field.key) == nullptr) return fallback;
  return ReadInt(object, field);
}

absl::StatusOr<double> ReadRealOr(const nlohmann::json& object, const RealField& field,
                                  double fallback) {
  if (FindField(object, field.key) == nullptr) return fallback;
  return ReadReal(object, field);
}

absl::StatusOr<bool> ReadBoolOr(const nlohmann::json& object, absl::string_view key,
                                bool fallback) {
  const nlohmann::json* value = FindField(object, key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) return FieldError(key, *value, "true or false");
  return value->get<bool>();
}

}  // namespace palimpsest
