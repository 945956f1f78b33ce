// SPDX-License-Identifier: Apache-2.0
// What all texts come to at each point. Pure.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "services/cli/interval.h"
#include "services/cli/likelihood/results.h"

namespace palimpsest::cli {

// Means over texts, each of which counts the same.
struct LikelihoodFigures {
  std::string policy, budget, formats;
  uint32_t window_tokens = 0;
  uint64_t positions = 0;
  std::map<std::string, double> kl_by_text;
  double kl_mean = 0;
  Interval kl_interval;  // 95 %, over texts
  double kl_mean_last_half = 0;
  double kl_p95 = 0;  // mean of the texts' 95th percentiles
  double agreement = 0;
  double perplexity = 0, full_perplexity = 0;  // e to the mean surprise
  double bytes_percent_mean = 0, bytes_percent_peak = 0;
  double live_tokens_mean = 0;
  double budget_tokens_mean = 0;  // 0: no bound
};

// One for each point, in the order of their first results.
std::vector<LikelihoodFigures> FiguresOf(const std::vector<PointResult>& results);

// What is said once of all figures.
struct LikelihoodFacts {
  std::string model;
  std::string model_fingerprint, device, commit;  // several are parted by commas
  std::vector<std::string> texts;
  uint64_t tokens = 0;  // of all texts
  uint32_t prompt_tokens = 0;
  uint32_t every = 1;
};
LikelihoodFacts FactsOf(const std::string& model, const std::vector<PointResult>& results);

std::string LikelihoodTable(const LikelihoodFacts& facts,
                            const std::vector<LikelihoodFigures>& figures, int columns);

// A line with the facts, then a line a point.
std::string LikelihoodJsonLines(const LikelihoodFacts& facts,
                                const std::vector<LikelihoodFigures>& figures);

// Divergence against the mean share of bytes, both on logarithmic axes: a line for what differs in
// its budget only. What has no budget is left out.
std::string DrawDivergence(const LikelihoodFacts& facts,
                           const std::vector<LikelihoodFigures>& figures);

}  // namespace palimpsest::cli
