// SPDX-License-Identifier: Apache-2.0
// What a demo run found out, and the figures made of it. Plain values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "services/cli/client/messages.h"
#include "services/cli/countdown.h"

namespace palimpsest::cli {

struct ChainResult {
  CountdownProblem problem;
  uint64_t request = 0;  // the worker's number; 0: not submitted yet
  bool finished = false;
  ChainEnd end = ChainEnd::kLost;
  std::string error;  // with kError
  Verdict verdict = Verdict::kNoAnswer;
  std::vector<int32_t> tokens;  // generated
  double seconds = 0;           // from submission to its end
  ChainStats stats;
};

// One pass over the problems under one policy.
struct RunResult {
  PolicySpec spec;
  bool bounded = false;  // by spec.budget_tokens
  std::vector<ChainResult> chains;
  double seconds = 0;
  // Of the worker, during this run: whole frames, and the full cache of the same tokens.
  uint64_t pool_used_byte_steps = 0;
  uint64_t pool_full_byte_steps = 0;
  uint64_t pool_used_bytes_peak = 0;  // as seen by polling
};

// "full", "thinkv k=512".
std::string Label(const RunResult& run);

struct RunFigures {
  uint32_t problems = 0;
  uint32_t right = 0;
  uint32_t lost = 0;  // ended by neither an end token nor the token limit
  uint32_t cut_off = 0;
  double accuracy = 0;
  uint64_t tokens_prompt = 0;
  uint64_t tokens_generated = 0;
  double tokens_per_second = 0;
  double cache_mean_percent = 0;
  double cache_peak_percent = 0;        // of the worst chain
  double cache_peak_total_percent = 0;  // all chains' peaks over all chains' full sizes
  double pool_mean_percent = 0;         // with frame slack
  uint64_t plans_applied = 0;
  uint64_t plans_local = 0;
  double plan_lag_mean_ms = 0;
  double plan_lag_max_ms = 0;
  uint32_t plan_lag_tokens_max = 0;
  uint64_t pressure_reliefs = 0;
  uint64_t tokens_hash = 0;  // of every generated token, in problem order
  uint64_t plans_hash = 0;   // of every plan applied
};

RunFigures FiguresOf(const RunResult& run);

}  // namespace palimpsest::cli
