// SPDX-License-Identifier: Apache-2.0
// From shares of bytes to budgets: policies are told apart by what they keep in equal room.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/cli/countdown.h"
#include "services/cli/grid/points.h"
#include "services/decode/model/tokenizer.h"

namespace palimpsest::cli {

// `points` with budgets for chains as long as the problems' references; those that came out equal
// stand once. `folder`: the model's. `plan_lag_tokens`: CacheCosts'. InvalidArgument names the
// flag.
absl::StatusOr<std::vector<GridPoint>> WithBudgets(std::vector<GridPoint> points,
                                                   const std::vector<CountdownProblem>& problems,
                                                   const Tokenizer& tokenizer,
                                                   const std::string& folder,
                                                   uint32_t plan_lag_tokens);

}  // namespace palimpsest::cli
