// SPDX-License-Identifier: Apache-2.0
// What is compared: every policy at every budget in every format.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/policy/policy.h"

namespace palimpsest::cli {

struct GridSettings {
  std::vector<std::string> policy = {"window", "random", "thinkv"};
  std::vector<std::string> budget = {};   // tokens
  std::vector<std::string> windows = {};  // tokens; empty: each policy's own
  std::vector<std::string> bytes = {};    // per cent of the full cache's bytes
  std::vector<std::string> formats = {};  // empty: each policy's own
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

}  // namespace palimpsest::cli
