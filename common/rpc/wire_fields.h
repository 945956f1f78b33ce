// SPDX-License-Identifier: Apache-2.0
// The small pieces wire.cc and wire_status.cc share. Not for anybody else.
#pragma once

#include <capnp/blob.h>

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/thought.h"
#include "proto/types.capnp.h"

namespace palimpsest::wire_fields {

inline absl::StatusOr<std::string> ReadText(capnp::Text::Reader text, const char* field) {
  if (text.size() > limits::kTextBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        field, ": ", text.size(), " bytes, allowed are at most ", limits::kTextBytesMax));
  }
  return std::string(text.begin(), text.size());
}

// Our own texts are cut too: a name that is too long must not make a message the peer refuses.
inline std::string CutText(std::string_view text) {
  return std::string(text.substr(0, limits::kTextBytesMax));
}

template <typename List>
absl::Status CheckList(const List& list, size_t items_max, const char* field) {
  if (list.size() <= items_max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": ", list.size(), " items, allowed are at most ", items_max));
}

inline absl::StatusOr<Thought> ReadThought(wire::Thought thought, const char* field) {
  const auto value = static_cast<uint16_t>(thought);
  if (value < kThoughtCount) return static_cast<Thought>(value);
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", value, " is no thought"));
}

inline wire::Thought ToWire(Thought thought) { return static_cast<wire::Thought>(Index(thought)); }

}  // namespace palimpsest::wire_fields
