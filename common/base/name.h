// SPDX-License-Identifier: Apache-2.0
// The one rule for names that peers choose: tenants and workers.
#pragma once

#include <algorithm>
#include <cstddef>

#include "absl/strings/string_view.h"

namespace palimpsest {

inline constexpr size_t kNameBytesMax = 128;
inline constexpr char kNameRule[] = "1 to 128 of A-Z a-z 0-9 . _ : @ -";

inline bool IsName(absl::string_view text) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == ':' || c == '@' || c == '-';
  };
  return !text.empty() && text.size() <= kNameBytesMax &&
         std::all_of(text.begin(), text.end(), allowed);
}

}  // namespace palimpsest
