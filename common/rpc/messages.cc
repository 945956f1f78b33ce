// SPDX-License-Identifier: Apache-2.0
#include "common/rpc/messages.h"

#include <array>

#include "absl/strings/str_cat.h"

namespace palimpsest {

std::string_view Name(Refusal::Code code) {
  static constexpr std::array<std::string_view, 13> kNames = {
      "unspecified", "unsupported_version", "unauthorized", "draining", "limit",      "stale_epoch",
      "not_owner",   "not_found",           "invalid",      "conflict", "superseded", "expired",
      "offences"};
  const auto index = static_cast<size_t>(code);
  return index < kNames.size() ? kNames[index] : kNames[0];
}

std::string ToString(const Refusal& refusal) {
  const std::string_view name = Name(refusal.code);
  return absl::StrCat(absl::string_view(name.data(), name.size()), ": ", refusal.text);
}

}  // namespace palimpsest
