// SPDX-License-Identifier: Apache-2.0
#include "services/cli/eval/figures.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "services/cli/render.h"

namespace palimpsest::cli {
namespace {

using ProblemSample = std::pair<std::string, uint32_t>;
using ByProblem = std::map<ProblemSample, const ChainRecord*>;

// The sums that the figures are quotients of.
struct Sums {
  double held = 0, full = 0, peaks = 0, ends = 0;
  double live = 0, steps = 0;
  double tokens_compared = 0, tokens_of_full = 0;
  double decoded = 0, decode_seconds = 0;
  std::map<std::string, std::pair<double, double>> right_of;  // of each problem

  void Add(const ChainRecord& record) {
    const ChainStats& stats = record.stats;
    held += static_cast<double>(stats.footprint_byte_steps);
    full += static_cast<double>(stats.full_byte_steps);
    peaks += static_cast<double>(stats.footprint_bytes_peak);
    ends += static_cast<double>(stats.full_bytes_end);
    live += static_cast<double>(stats.live_token_steps);
    steps += stats.steps;
    if (record.decode_seconds > 0) {
      decoded += record.tokens - 1.0;
      decode_seconds += record.decode_seconds;
    }
    auto& [right, asked] = right_of[record.problem];
    right += record.right ? 1 : 0;
    asked += 1;
  }

  std::vector<double> Shares() const {
    std::vector<double> shares;
    for (const auto& [problem, counts] : right_of) shares.push_back(counts.first / counts.second);
    return shares;
  }
};

double Quotient(double a, double b) {
  return b > 0 ? a / b : std::numeric_limits<double>::quiet_NaN();
}

void Finish(const Sums& sums, PointFigures* figures) {
  figures->accuracy = Quotient(figures->right, figures->chains);
  figures->interval =
      WilsonInterval(figures->chains > 0 ? figures->accuracy : 0.0,
                     EffectiveTrials(sums.Shares(), static_cast<double>(figures->chains)));
  figures->tokens_mean = Quotient(static_cast<double>(figures->tokens), figures->chains);
  figures->tokens_to_full = Quotient(sums.tokens_compared, sums.tokens_of_full);
  figures->bytes_mean_percent = PercentOf(sums.held, sums.full);
  figures->bytes_peak_percent = PercentOf(sums.peaks, sums.ends);
  figures->live_mean = Quotient(sums.live, sums.steps);
  figures->chain_tokens_per_second = Quotient(sums.decoded, sums.decode_seconds);
}

PointFigures FiguresOfPoint(const GridPoint& point, const std::vector<const ChainRecord*>& chains,
                            const ByProblem& full) {
  PointFigures figures;
  figures.point = point;
  Sums sums;
  for (const ChainRecord* record : chains) {
    const ChainStats& stats = record->stats;
    ++figures.chains;
    figures.right += record->right ? 1 : 0;
    figures.cut_off += record->end == ChainEnd::kLength ? 1 : 0;
    figures.loops += record->loops ? 1 : 0;
    figures.tokens += record->tokens;
    figures.plans_applied += stats.plans_applied;
    figures.pressure_reliefs += stats.pressure_reliefs;
    figures.live_peak = std::max(figures.live_peak, stats.live_tokens_peak);
    const double peak = PercentOf(static_cast<double>(stats.footprint_bytes_peak),
                                  static_cast<double>(stats.full_bytes_end));
    figures.bytes_worst_percent = std::fmax(figures.bytes_worst_percent, peak);
    sums.Add(*record);
    const auto same = full.find({record->problem, record->sample});
    if (same == full.end()) continue;
    ++figures.compared;
    figures.same_as_full += same->second->tokens_hash == record->tokens_hash ? 1 : 0;
    sums.tokens_compared += record->tokens;
    sums.tokens_of_full += same->second->tokens;
  }
  Finish(sums, &figures);
  return figures;
}

}  // namespace

std::vector<PointFigures> FiguresOf(const EvalHeader& header, const std::vector<GridPoint>& points,
                                    const std::vector<ChainRecord>& records,
                                    const std::map<std::string, uint32_t>& lost) {
  std::map<std::string, std::vector<const ChainRecord*>> by_point;
  for (const ChainRecord& record : records) by_point[record.point].push_back(&record);
  ByProblem full;
  for (const GridPoint& point : points) {
    if (!point.is_full()) continue;
    for (const ChainRecord* record : by_point[point.Key()]) {
      full[{record->problem, record->sample}] = record;
    }
  }
  std::vector<PointFigures> all;
  for (const GridPoint& point : points) {
    all.push_back(FiguresOfPoint(point, by_point[point.Key()], full));
    all.back().wanted = header.problems * header.samples;
    const auto found = lost.find(point.Key());
    if (found != lost.end()) all.back().lost = found->second;
  }
  return all;
}

}  // namespace palimpsest::cli
