// SPDX-License-Identifier: Apache-2.0
// From what was asked to what is to be run: model, problems and points, with budgets chosen.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/cli/byte_budget.h"
#include "services/cli/eval/record.h"
#include "services/cli/eval/settings.h"
#include "services/decode/model/tokenizer.h"

namespace palimpsest::cli {

struct EvalInputs {
  std::string folder;  // of the model
  std::unique_ptr<Tokenizer> tokenizer;
  CacheCosts costs;
  std::vector<EvalProblem> problems;
  std::vector<size_t> order;  // of the problems, the longest first
  size_t pictured = 0;        // the problem whose chains are drawn: of middling length
  std::vector<GridPoint> points;
  EvalHeader header;
  std::vector<std::string> notes;  // for people
};

// Reads the files and settles the grid. Points whose budgets came out equal stand once. Errors name
// the flag.
absl::StatusOr<EvalInputs> LoadEvalInputs(const EvalSettings& settings);

// Points that one worker serves without charging any for what only others need.
struct WorkerGroup {
  std::vector<size_t> points;         // indices
  std::vector<std::string> policies;  // that it is to serve
};
std::vector<WorkerGroup> GroupPoints(const std::vector<GridPoint>& points);

}  // namespace palimpsest::cli
