// SPDX-License-Identifier: Apache-2.0
// Plain structs as JSON objects. A struct's keys are listed once, in a function that calls a
// visitor with each key and its field; FieldReader reads what they name, FieldWriter writes it.
#pragma once

#include <string>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace palimpsest::cli {

class FieldReader {
 public:
  explicit FieldReader(const nlohmann::json& object) : object_(object) {}

  template <typename T>
  void operator()(const char* key, T& out) {
    const auto found = object_.find(key);
    if (found == object_.end()) return Refuse(key, " is missing");
    if constexpr (std::is_same_v<T, bool>) {
      if (!found->is_boolean()) return Refuse(key, ": expected true or false");
    } else if constexpr (std::is_unsigned_v<T>) {
      if (!found->is_number_unsigned()) return Refuse(key, ": expected a whole number");
    } else if constexpr (std::is_floating_point_v<T>) {
      if (!found->is_number()) return Refuse(key, ": expected a number");
    } else {
      static_assert(std::is_same_v<T, std::string>);
      if (!found->is_string()) return Refuse(key, ": expected a text");
    }
    out = found->get<T>();
  }
  // InvalidArgument that names the first key that is missing or of another kind.
  const absl::Status& status() const { return status_; }

 private:
  void Refuse(const char* key, const char* why) {
    status_.Update(absl::InvalidArgumentError(absl::StrCat("the key '", key, "'", why)));
  }

  const nlohmann::json& object_;
  absl::Status status_;
};

class FieldWriter {
 public:
  template <typename T>
  void operator()(const char* key, const T& value) {
    object_[key] = value;
  }
  nlohmann::ordered_json Take() { return std::move(object_); }

 private:
  nlohmann::ordered_json object_;
};

}  // namespace palimpsest::cli
