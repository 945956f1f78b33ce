// SPDX-License-Identifier: Apache-2.0
#include "services/cli/demo/report.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/build_info.h"
#include "nlohmann/json.hpp"
#include "services/cli/render.h"

namespace palimpsest::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kDemoFormatVersion = 1;

std::string Lag(const RunFigures& figures) {
  if (figures.plans_applied == figures.plans_local) return "-";
  return absl::StrFormat("%.1f/%.1f", figures.plan_lag_mean_ms, figures.plan_lag_max_ms);
}

std::string Percent(double percent) {
  if (!std::isfinite(percent)) return "-";
  return absl::StrFormat(percent < 9.995 ? "%.2f" : "%.1f", percent);
}

std::string ProblemTable(const RunResult& run, int columns) {
  Table table{.columns = {{"problem", false},
                          {"answer", false},
                          {"tokens"},
                          {"mean"},
                          {"peak"},
                          {"timeline", false}},
              .rows = {}};
  for (const ChainResult& chain : run.chains) {
    const ChainStats& stats = chain.stats;
    const auto percent = [](uint64_t part, uint64_t whole) {
      return HumanPercent(PercentOf(static_cast<double>(part), static_cast<double>(whole)));
    };
    table.rows.push_back({Clipped(chain.problem.id, 32, false), std::string(Name(chain.verdict)),
                          HumanCount(chain.tokens.size()),
                          percent(stats.footprint_byte_steps, stats.full_byte_steps),
                          percent(stats.footprint_bytes_peak, stats.full_bytes_end),
                          Clipped(stats.timeline, 64, false)});
  }
  return absl::StrCat("\n", Label(run), "\n", ToText(table, columns));
}

// A note on one bounded run, against the full cache if that was run as well.
std::string RunNote(const RunResult& run, const RunFigures* full) {
  const RunFigures figures = FiguresOf(run);
  std::string note = absl::StrCat(Label(run), " had ", figures.right, " of ", figures.problems,
                                  " right with ", HumanPercent(figures.cache_mean_percent),
                                  " of the full cache's bytes on average");
  if (full == nullptr) return absl::StrCat(note, ".");
  if (figures.right < full->right) {
    absl::StrAppend(&note, ": it loses accuracy, for the full cache had ", full->right, ".");
  } else if (figures.right == full->right) {
    absl::StrAppend(&note, ", as many as the full cache.");
  } else {
    absl::StrAppend(&note, ", more than the full cache (", full->right, ").");
  }
  return note;
}

// NaN has no place in JSON: what could not be measured is null.
Json Number(double value) {
  if (!std::isfinite(value)) return nullptr;
  return std::round(value * 1e6) / 1e6;
}

std::string Hex(uint64_t value) { return absl::StrFormat("%016x", value); }

Json ChainJson(const ChainResult& chain) {
  const ChainStats& stats = chain.stats;
  return Json{
      {"id", chain.problem.id},
      {"verdict", std::string(Name(chain.verdict))},
      {"end", std::string(Name(chain.end))},
      {"error", chain.error.empty() ? Json(nullptr) : Json(chain.error)},
      {"tokens_prompt", stats.prompt_tokens},
      {"tokens_generated", chain.tokens.size()},
      {"tokens_reference", chain.problem.chain_tokens},
      {"seconds", Number(chain.seconds)},
      {"cache_mean_percent", Number(PercentOf(static_cast<double>(stats.footprint_byte_steps),
                                              static_cast<double>(stats.full_byte_steps)))},
      {"cache_peak_bytes", stats.footprint_bytes_peak},
      {"full_end_bytes", stats.full_bytes_end},
      {"plans_applied", stats.plans_applied},
      {"plans_local", stats.plans_local},
      {"timeline", stats.timeline},
      {"plans_hash", Hex(stats.plan_hash)},
  };
}

Json RunJson(const RunResult& run, bool verbose) {
  const RunFigures f = FiguresOf(run);
  Json json{
      {"policy", run.spec.name},
      {"budget_tokens", run.bounded ? Json(run.spec.budget_tokens) : Json(nullptr)},
      {"formats", ToString(run.spec.formats)},
      {"problems", f.problems},
      {"right", f.right},
      {"accuracy", Number(f.accuracy)},
      {"cut_off", f.cut_off},
      {"sequences_lost", f.lost},
      {"tokens_prompt", f.tokens_prompt},
      {"tokens_generated", f.tokens_generated},
      {"seconds", Number(run.seconds)},
      {"tokens_per_second", Number(f.tokens_per_second)},
      {"cache_mean_percent", Number(f.cache_mean_percent)},
      {"cache_peak_percent", Number(f.cache_peak_percent)},
      {"cache_peak_total_percent", Number(f.cache_peak_total_percent)},
      {"pool_mean_percent", Number(f.pool_mean_percent)},
      {"pool_used_peak_bytes", run.pool_used_bytes_peak},
      {"plans_applied", f.plans_applied},
      {"plans_local", f.plans_local},
      {"plan_lag_mean_ms", Number(f.plan_lag_mean_ms)},
      {"plan_lag_max_ms", Number(f.plan_lag_max_ms)},
      {"plan_lag_max_tokens", f.plan_lag_tokens_max},
      {"pressure_reliefs", f.pressure_reliefs},
      {"tokens_hash", Hex(f.tokens_hash)},
      {"plans_hash", Hex(f.plans_hash)},
  };
  if (!verbose) return json;
  json["chains"] = Json::array();
  for (const ChainResult& chain : run.chains) json["chains"].push_back(ChainJson(chain));
  return json;
}

}  // namespace

std::string DemoTable(const DemoFacts& facts, const std::vector<RunResult>& runs, int columns) {
  Table table{.columns = {{"policy", false},
                          {"accuracy"},
                          {"tokens"},
                          {"mean %"},
                          {"peak %"},
                          {"peaks %"},
                          {"pool %"},
                          {"tokens/s"},
                          {"lag ms"},
                          {"lost"}},
              .rows = {}};
  for (const RunResult& run : runs) {
    const RunFigures f = FiguresOf(run);
    table.rows.push_back(
        {Label(run), absl::StrFormat("%u/%u %.2f", f.right, f.problems, f.accuracy),
         HumanCount(f.tokens_generated), Percent(f.cache_mean_percent),
         Percent(f.cache_peak_percent), Percent(f.cache_peak_total_percent),
         Percent(f.pool_mean_percent), absl::StrFormat("%.0f", f.tokens_per_second), Lag(f),
         absl::StrCat(f.lost)});
  }
  std::string out = absl::StrCat(ToText(table, columns), "\n");
  absl::StrAppend(
      &out, Wrapped("%: all bytes of the chains' caches over K and V of the same tokens in bf16; "
                    "mean over all steps, peak of the worst chain, peaks of all together, pool "
                    "with whole frames. lag: from report to applied plan, mean/max.",
                    columns, ""));
  if (facts.verbose) {
    for (const RunResult& run : runs) absl::StrAppend(&out, ProblemTable(run, columns));
  }
  return out;
}

std::vector<std::string> DemoNotes(const DemoFacts& facts, const std::vector<RunResult>& runs) {
  std::vector<std::string> notes;
  const auto full =
      std::find_if(runs.begin(), runs.end(), [](const RunResult& run) { return !run.bounded; });
  const RunFigures full_figures = full == runs.end() ? RunFigures{} : FiguresOf(*full);
  std::vector<std::string> sentences;
  uint32_t lost = 0;
  uint64_t local = 0;
  for (const RunResult& run : runs) {
    const RunFigures figures = FiguresOf(run);
    lost += figures.lost;
    local += figures.plans_local;
    if (run.bounded)
      sentences.push_back(RunNote(run, full == runs.end() ? nullptr : &full_figures));
  }
  if (!sentences.empty()) notes.push_back(absl::StrJoin(sentences, " "));
  if (!runs.empty() && !runs.front().chains.empty()) {
    const size_t problems = runs.front().chains.size();
    if (problems < 100) {
      notes.push_back(absl::StrFormat(
          "With %d problem%s one answer weighs %.1f points; small differences mean nothing.",
          problems, problems == 1 ? "" : "s", 100.0 / static_cast<double>(problems)));
    }
  }
  if (facts.model.synthetic)
    notes.push_back("The model's weights are random: no answer means anything.");
  if (lost > 0) notes.push_back(absl::StrCat(lost, " chains were lost. --verbose names them."));
  if (facts.store_lost) {
    notes.push_back(
        absl::StrCat("The store was away: ", local, " plans were made by the worker itself."));
  }
  return notes;
}

std::string DemoJson(const DemoFacts& facts, const std::vector<RunResult>& runs) {
  Json json{
      {"demo_format", kDemoFormatVersion},
      {"version", std::string(BuildVersion())},
      {"commit", std::string(BuildCommit())},
      {"model",
       {{"path", facts.model.path},
        {"family", facts.model.family},
        {"synthetic", facts.model.synthetic},
        {"layers", facts.model.layers},
        {"kv_heads", facts.model.kv_heads},
        {"head_dim", facts.model.head_dim}}},
      {"problem_source", facts.problem_source},
      {"seed", facts.seed},
      {"lockstep", facts.lockstep},
      {"store", facts.store},
      {"store_lost", facts.store_lost},
      {"runs", Json::array()},
      {"notes", DemoNotes(facts, runs)},
  };
  for (const RunResult& run : runs) json["runs"].push_back(RunJson(run, facts.verbose));
  return absl::StrCat(json.dump(2, ' ', false, Json::error_handler_t::replace), "\n");
}

}  // namespace palimpsest::cli
