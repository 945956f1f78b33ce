// SPDX-License-Identifier: Apache-2.0
// The grid of an evaluation: every policy at every budget in every format.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/policy/policy.h"

namespace palimpsest::cli {

struct EvalPoint {
  PolicySpec spec;
  bool bounded = false;  // the budget means something to this policy
  // The share of the full cache's bytes that the budget was, or is to be, chosen for.
  std::optional<double> target_percent = std::nullopt;
  // Of the file that the policy's choices rest on (codebook, calibration), a hash; or "".
  std::string aid = {};

  std::string Label() const;  // "thinkv k=512", with formats that are not the policy's own
  std::string Key() const;    // of everything that makes it another point
  bool is_full() const;       // every token in bf16: what the others are held against
};

// What points of one policy in one set of formats share: "thinkv", "rkv nvfp4".
std::string SeriesName(const EvalPoint& point);

struct PointChoice {
  std::vector<std::string> policy = {};
  std::vector<std::string> budget = {};   // tokens
  std::vector<std::string> bytes = {};    // per cent of the full cache's
  std::vector<std::string> formats = {};  // "default": the policy's own
};

// What is bounded stands once for each budget and each share of bytes, whose budget is still to be
// chosen; what is not, once. Equal points stand once. InvalidArgument names the flag and what is
// allowed.
absl::StatusOr<std::vector<EvalPoint>> MakePoints(const PointChoice& choice);

}  // namespace palimpsest::cli
