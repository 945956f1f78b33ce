// SPDX-License-Identifier: Apache-2.0
// What is judged side by side: every policy at every budget, with every window, in every format.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/policy/policy.h"

namespace palimpsest::cli {

struct GridPoint {
  PolicySpec spec;
  bool bounded = false;  // the budget means something to this policy
  // The share of the full cache's bytes that the budget was, or is to be, chosen for.
  std::optional<double> target_percent = std::nullopt;
  // Of the file that the policy's choices rest on (codebook, calibration), a hash; or "".
  std::string aid = {};
  std::string commit = {};  // of what runs it; told, and no part of its key

  // "thinkv k=512", with windows and formats that are not the policy's own: "rkv k=512 tau=64 fp8".
  std::string Label() const;
  std::string BudgetLabel() const;  // "512", "5%" or, where there is no bound, "-"
  std::string Key() const;          // of everything that makes it another point
  bool is_full() const;             // every token in bf16: what the others are held against
};

// What points that differ in their budgets only share: "thinkv", "rkv nvfp4".
std::string SeriesName(const GridPoint& point);

struct GridChoice {
  std::vector<std::string> policy = {};
  std::vector<std::string> budget = {};   // tokens
  std::vector<std::string> bytes = {};    // per cent of the full cache's
  std::vector<std::string> windows = {};  // tokens; empty: the policy's own
  std::vector<std::string> formats = {};  // "default", or empty: the policy's own
};

// What is bounded stands once for each budget and each share of bytes, whose budget is still to be
// chosen; what is not, once. Equal points stand once. InvalidArgument names the flag and what is
// allowed.
absl::StatusOr<std::vector<GridPoint>> MakeGrid(const GridChoice& choice);

}  // namespace palimpsest::cli
