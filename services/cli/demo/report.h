// SPDX-License-Identifier: Apache-2.0
// The end of a demo: a table and sentences for people, one JSON document for machines. Pure.
#pragma once

#include <string>
#include <vector>

#include "services/cli/demo/result.h"

namespace palimpsest::cli {

// What was asked, and the circumstances.
struct DemoFacts {
  ModelInfo model;
  std::string problem_source;
  uint64_t seed = 0;
  bool lockstep = false;
  bool store = false;       // plans came from a shard
  bool store_lost = false;  // it was away at some time
  bool verbose = false;     // every problem's result, too
};

std::string DemoTable(const DemoFacts& facts, const std::vector<RunResult>& runs, int columns);
// Sentences drawn from the figures: what a budget costs, what was lost, how much a figure is worth.
std::vector<std::string> DemoNotes(const DemoFacts& facts, const std::vector<RunResult>& runs);
// Ends with a line break. tests/cli/golden has its shape.
std::string DemoJson(const DemoFacts& facts, const std::vector<RunResult>& runs);

}  // namespace palimpsest::cli
