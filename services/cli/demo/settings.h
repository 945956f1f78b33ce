// SPDX-License-Identifier: Apache-2.0
// What can be asked of `palimpsest demo`, and what that means: which problems.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/settings.h"
#include "services/cli/countdown.h"
#include "services/cli/fleet.h"
#include "services/cli/grid/points.h"

namespace palimpsest::cli {

enum class OutputFormat : uint8_t { kTable, kJson };

struct DemoSettings {
  // So few bytes that policies differ.
  GridChoice grid{.policy = {"full", "anticipate", "thinkv"}, .bytes = {"10"}};
  std::string problems = "12";
  std::string model;  // empty: the shipped one, or the worker's
  FleetOptions fleet{.pool_bytes = 512ull << 20};
  bool verbose = false;
  bool quiet = false;
  uint64_t seed = 1;
  uint32_t batch = 0;
  uint32_t max_new_tokens = 0;
  std::chrono::nanoseconds timeout = std::chrono::minutes(15);
  OutputFormat format = OutputFormat::kTable;
};

// `settings` outlives the table.
std::unique_ptr<SettingsTable> NewDemoSettingsTable(DemoSettings* settings);

struct ProblemSet {
  std::string source;  // for people
  std::vector<CountdownProblem> problems;
};

// A number: the first held-out problems whose chains have 1,000 to 3,000 tokens, so that a demo is
// short and budgets mean something. Else a file, whole.
absl::StatusOr<ProblemSet> ChooseProblems(const std::string& problems);

}  // namespace palimpsest::cli
