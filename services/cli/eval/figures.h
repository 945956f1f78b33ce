// SPDX-License-Identifier: Apache-2.0
// The figures of each point, made of its chains' records. Plain values; docs/evaluation.md says
// what each is good for.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "services/cli/eval/record.h"
#include "services/cli/interval.h"

namespace palimpsest::cli {

struct PointFigures {
  GridPoint point;
  uint32_t wanted = 0;  // chains, in all
  uint32_t chains = 0;  // of them, recorded
  uint32_t lost = 0;    // of the others: ended by an error of the worker's
  uint32_t right = 0;
  double accuracy = 0;
  Interval interval;          // 95 %
  uint32_t cut_off = 0;       // reached the token limit
  uint32_t loops = 0;         // of them or not: end in a loop
  uint32_t same_as_full = 0;  // token for token the full cache's chain
  uint32_t compared = 0;      // chains that the full cache was asked for, too
  double tokens_mean = 0;     // generated, a chain
  double tokens_to_full = 0;  // tokens over those of the full cache's chains of the same problems
  uint64_t tokens = 0;
  double bytes_mean_percent = 0;   // all bytes over all steps
  double bytes_peak_percent = 0;   // all chains' peaks over all their full sizes
  double bytes_worst_percent = 0;  // peak of the chain that has the highest
  double live_mean = 0;            // live tokens of a lane, over all steps
  uint32_t live_peak = 0;
  double chain_tokens_per_second = 0;  // of one chain, in its batch
  uint64_t plans_applied = 0;
  uint64_t pressure_reliefs = 0;
};

// In the order of the points. `lost`: chains of a point (its key) that ended by an error.
std::vector<PointFigures> FiguresOf(const EvalHeader& header, const std::vector<GridPoint>& points,
                                    const std::vector<ChainRecord>& records,
                                    const std::map<std::string, uint32_t>& lost);

}  // namespace palimpsest::cli
