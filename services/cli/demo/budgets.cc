// SPDX-License-Identifier: Apache-2.0
#include "services/cli/demo/budgets.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"
#include "services/cli/byte_budget.h"
#include "services/cli/stored_lane_shares.h"
#include "services/decode/model/model_config.h"

namespace palimpsest::cli {
namespace {

absl::StatusOr<std::vector<ChainLength>> Lengths(const std::vector<CountdownProblem>& problems,
                                                 const Tokenizer& tokenizer) {
  std::vector<ChainLength> lengths;
  for (const CountdownProblem& problem : problems) {
    KV_ASSIGN_OR_RETURN(const std::vector<int32_t> prompt,
                        tokenizer.Encode(problem.prompt, /*add_special=*/false));
    if (problem.chain_tokens <= prompt.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--bytes: how long a chain is must be known, and problem ",
                       Escaped(problem.id), " has no chain_tokens; allowed here: --budget"));
    }
    lengths.push_back(
        {.prompt_tokens = static_cast<uint32_t>(prompt.size()), .tokens = problem.chain_tokens});
  }
  return lengths;
}

}  // namespace

absl::StatusOr<std::vector<GridPoint>> WithBudgets(std::vector<GridPoint> points,
                                                   const std::vector<CountdownProblem>& problems,
                                                   const Tokenizer& tokenizer,
                                                   const std::string& folder,
                                                   uint32_t plan_lag_tokens) {
  KV_ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(folder));
  CacheCosts costs{.shape = config.cache_shape(),
                   .query_heads = config.query_heads,
                   .plan_lag_tokens = plan_lag_tokens};
  // Only budgets in bytes need to know how long chains are.
  const bool in_bytes = std::any_of(points.begin(), points.end(), [](const GridPoint& point) {
    return point.target_percent.has_value();
  });
  std::vector<ChainLength> lengths;
  if (in_bytes) {
    KV_ASSIGN_OR_RETURN(lengths, Lengths(problems, tokenizer));
    KV_ASSIGN_OR_RETURN(costs.lane_shares, LoadLaneShares("", folder, config));
  }
  std::vector<GridPoint> settled;
  for (GridPoint& point : points) {
    if (point.target_percent.has_value()) {
      KV_ASSIGN_OR_RETURN(const ByteBudget budget,
                          BudgetForBytes(point.spec, costs, lengths, *point.target_percent));
      point.spec.budget_tokens = budget.budget_tokens;
    }
    const bool known = std::any_of(settled.begin(), settled.end(), [&](const GridPoint& other) {
      return other.spec == point.spec;
    });
    if (!known) settled.push_back(std::move(point));
  }
  return settled;
}

}  // namespace palimpsest::cli
