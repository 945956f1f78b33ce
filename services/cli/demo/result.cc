// SPDX-License-Identifier: Apache-2.0
#include "services/cli/demo/result.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "services/cli/fnv.h"
#include "services/cli/render.h"

namespace palimpsest::cli {
std::string Label(const RunResult& run) {
  return run.bounded ? absl::StrCat(run.spec.name, " k=", run.spec.budget_tokens) : run.spec.name;
}

RunFigures FiguresOf(const RunResult& run) {
  RunFigures figures;
  Fnv tokens_hash, plans_hash;
  double byte_steps = 0, full_steps = 0, peaks = 0, ends = 0, lag_seconds = 0;
  for (const ChainResult& chain : run.chains) {
    const ChainStats& stats = chain.stats;
    ++figures.problems;
    figures.right += chain.verdict == Verdict::kRight ? 1 : 0;
    figures.lost += chain.end == ChainEnd::kStop || chain.end == ChainEnd::kLength ? 0 : 1;
    figures.cut_off += chain.end == ChainEnd::kLength ? 1 : 0;
    figures.tokens_prompt += stats.prompt_tokens;
    figures.tokens_generated += chain.tokens.size();
    byte_steps += static_cast<double>(stats.footprint_byte_steps);
    full_steps += static_cast<double>(stats.full_byte_steps);
    peaks += static_cast<double>(stats.footprint_bytes_peak);
    ends += static_cast<double>(stats.full_bytes_end);
    const double peak = PercentOf(static_cast<double>(stats.footprint_bytes_peak),
                                  static_cast<double>(stats.full_bytes_end));
    figures.cache_peak_percent = std::fmax(figures.cache_peak_percent, peak);
    figures.plans_applied += stats.plans_applied;
    figures.plans_local += stats.plans_local;
    lag_seconds += stats.plan_lag_seconds_sum;
    figures.plan_lag_max_ms = std::max(figures.plan_lag_max_ms, stats.plan_lag_seconds_max * 1e3);
    figures.plan_lag_tokens_max = std::max(figures.plan_lag_tokens_max, stats.plan_lag_tokens_max);
    figures.pressure_reliefs += stats.pressure_reliefs;
    for (const int32_t token : chain.tokens)
      tokens_hash.Add(uint64_t{static_cast<uint32_t>(token)});
    plans_hash.Add(stats.plan_hash);
  }
  figures.tokens_hash = tokens_hash.value();
  figures.plans_hash = plans_hash.value();
  const uint64_t from_store =
      figures.plans_applied - std::min(figures.plans_applied, figures.plans_local);
  figures.accuracy =
      figures.problems == 0 ? 0.0 : static_cast<double>(figures.right) / figures.problems;
  figures.tokens_per_second =
      run.seconds > 0 ? static_cast<double>(figures.tokens_generated) / run.seconds : 0.0;
  figures.cache_mean_percent = PercentOf(byte_steps, full_steps);
  figures.cache_peak_total_percent = PercentOf(peaks, ends);
  figures.pool_mean_percent = PercentOf(static_cast<double>(run.pool_used_byte_steps),
                                        static_cast<double>(run.pool_full_byte_steps));
  figures.plan_lag_mean_ms =
      from_store == 0 ? 0.0 : 1e3 * lag_seconds / static_cast<double>(from_store);
  return figures;
}

}  // namespace palimpsest::cli
