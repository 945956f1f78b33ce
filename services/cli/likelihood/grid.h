// SPDX-License-Identifier: Apache-2.0
// What is compared: every policy at every budget in every format.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/policy/policy.h"
#include "kernels/layout.h"

namespace palimpsest::cli {

struct GridSettings {
  std::vector<std::string> policy = {"window", "random", "thinkv"};
  std::vector<std::string> budget;   // tokens
  std::vector<std::string> bytes;    // per cent of the full cache's bytes
  std::vector<std::string> formats;  // empty: each policy's own
};

// One way to keep a cache. Where `bytes_percent` is set the budget depends on the text.
struct GridPoint {
  PolicySpec spec;
  bool bounded = false;  // the budget means something to the policy
  std::optional<double> bytes_percent;

  // "512", "5%" or, where there is no bound, "-".
  std::string BudgetLabel() const;
};

// InvalidArgument names the flag, what was found and what is allowed. A policy without a bound
// appears once for each format; the full cache in bf16, which is the yardstick, not at all.
absl::StatusOr<std::vector<GridPoint>> MakeGrid(const GridSettings& settings);

// What a chain of a point looks like, for its bytes.
struct ChainShape {
  CacheShape cache;  // with slot scores, where the point's policy wants them
  uint64_t query_bytes = 0;
  uint32_t prompt_tokens = 0;
  uint32_t tokens = 0;  // with the prompt
};

// The largest budget with which a chain holds `percent` of the full cache's bytes, averaged over
// its steps as RequestStats does; where tokens differ in format, as if all had class R's.
// OutOfRange says the least that the policy can reach.
absl::StatusOr<uint32_t> BudgetForBytes(const PolicySpec& spec, const ChainShape& chain,
                                        double percent);

}  // namespace palimpsest::cli
