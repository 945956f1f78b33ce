// SPDX-License-Identifier: Apache-2.0
// An evaluation as pictures (SVG). Pure.
#pragma once

#include <string>
#include <vector>

#include "services/cli/eval/figures.h"

namespace palimpsest::cli {

// Accuracy against the mean share of bytes, on a logarithmic axis: a line a policy, with the 95 %
// interval of every point. The full cache is a line across.
std::string DrawAccuracy(const EvalHeader& header, const std::vector<PointFigures>& figures);

// How many tokens of one chain were alive while it was written, over its kinds of thought: a panel
// for each record that has moments, at most eight.
std::string DrawTimelines(const EvalHeader& header, const std::vector<GridPoint>& points,
                          const std::vector<ChainRecord>& records);

}  // namespace palimpsest::cli
