// SPDX-License-Identifier: Apache-2.0
// What all texts come to at each point. Pure.
#pragma once

#include <string>
#include <vector>

#include "services/cli/likelihood/results.h"

namespace palimpsest::cli {

// Means over texts, each of which counts the same.
struct LikelihoodFigures {
  std::string policy, budget, formats;
  uint32_t texts = 0;
  uint64_t positions = 0;
  double kl_mean = 0;
  double kl_error = 0;  // standard error of kl_mean over texts; NaN for a single one
  double kl_mean_last_half = 0;
  double kl_p95 = 0;  // mean of the texts' 95th percentiles
  double agreement = 0;
  double perplexity = 0, full_perplexity = 0;  // e to the mean surprise
  double bytes_percent_mean = 0, bytes_percent_peak = 0;
  double live_tokens_mean = 0;
};

// One for each point, in the order of their first results.
std::vector<LikelihoodFigures> FiguresOf(const std::vector<PointResult>& results);

std::string LikelihoodTable(const std::vector<LikelihoodFigures>& figures, int columns);

struct LikelihoodFacts {
  std::string model, model_fingerprint, device;
  uint32_t prompt_tokens = 0;
  std::vector<std::string> texts;
};
// One document.
std::string LikelihoodJson(const LikelihoodFacts& facts,
                           const std::vector<LikelihoodFigures>& figures);

}  // namespace palimpsest::cli
