// SPDX-License-Identifier: Apache-2.0
// Which policies a worker serves, and what its backend must have for them: some take memory of
// every sequence, whether it uses them or not.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/selector.h"

namespace palimpsest {

inline constexpr uint32_t kQueriesKept = 8;  // R-KV's observation window

// What a selection makes every chain of a backend hold more of, whether it chooses so or not.
// (Queries are kept only of those that want it.)
struct ChainNeeds {
  bool slot_scores = false;  // BackendConfig's of the same names
  bool residue = false;
  auto operator<=>(const ChainNeeds&) const = default;
};
ChainNeeds NeedsOf(const Selection& selection);

struct ServedPolicies {
  std::vector<std::string> names;
  bool slot_scores = false;  // as in ChainNeeds
  bool residue = false;
  uint32_t query_window = 0;  // BackendConfig's
};

// `wanted`: the setting `policies`. Empty: those that take no memory of their own, and "anticipate"
// where there is a codebook. InvalidArgument for a name that is none, and for "anticipate" without
// a codebook.
absl::StatusOr<ServedPolicies> ServePolicies(absl::Span<const std::string> wanted,
                                             bool has_codebook);

}  // namespace palimpsest
