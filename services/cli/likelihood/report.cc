// SPDX-License-Identifier: Apache-2.0
#include "services/cli/likelihood/report.h"

#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/policy/policy.h"
#include "nlohmann/json.hpp"
#include "services/cli/grid/bytes_plot.h"
#include "services/cli/json_lines.h"
#include "services/cli/render.h"

namespace palimpsest::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kLikelihoodFormatVersion = 2;

LikelihoodFigures FiguresOfPoint(const std::vector<const PointResult*>& results) {
  const PointIdentity& identity = results.front()->identity;
  LikelihoodFigures f;
  f.policy = identity.policy;
  f.budget = identity.budget;
  f.formats = identity.formats;
  f.window_tokens = identity.window_tokens;
  const auto texts = static_cast<double>(results.size());
  double surprise = 0, full_surprise = 0;
  std::vector<double> kl;
  for (const PointResult* result : results) {
    const DivergenceSummary& d = result->divergence;
    kl.push_back(d.kl_mean);
    f.kl_by_text[result->identity.text] = d.kl_mean;
    f.positions += d.positions;
    f.kl_mean += d.kl_mean / texts;
    f.kl_mean_last_half += d.kl_mean_last_half / texts;
    f.kl_p95 += d.kl_p95 / texts;
    f.agreement += d.agreement / texts;
    surprise += d.surprise_mean / texts;
    full_surprise += d.full_surprise_mean / texts;
    f.bytes_percent_mean += result->bytes_percent_mean / texts;
    f.bytes_percent_peak += result->bytes_percent_peak / texts;
    f.live_tokens_mean += result->live_tokens_mean / texts;
    f.budget_tokens_mean += result->budget_tokens / texts;
  }
  f.kl_interval = MeanInterval(kl);
  f.perplexity = std::exp(surprise);
  f.full_perplexity = std::exp(full_surprise);
  return f;
}

// "rkv", and what is not its own: "rkv tau=64 nvfp4, keys rotated".
std::string NameOf(const LikelihoodFigures& f) {
  std::string name = f.policy;
  const absl::StatusOr<PolicySpec> own = DefaultSpec(f.policy);
  if (!own.ok()) return absl::StrCat(name, " ", f.formats);
  if (f.window_tokens != own->window_tokens) absl::StrAppend(&name, " tau=", f.window_tokens);
  const bool own_formats = absl::StartsWith(f.formats + ",", ToString(own->formats) + ",");
  if (!own_formats) return absl::StrCat(name, " ", f.formats);
  return name + f.formats.substr(ToString(own->formats).size());  // ", keys rotated"
}

// Of its 5 %, or null.
std::optional<double> TargetOf(const LikelihoodFigures& f) {
  double percent = 0;
  absl::string_view budget = f.budget;
  if (!absl::ConsumeSuffix(&budget, "%") || !absl::SimpleAtod(budget, &percent)) return {};
  return percent;
}

// Enough digits for what is small, and none to spare.
std::string Nats(double value) {
  if (!std::isfinite(value)) return "-";
  if (value == 0) return "0";
  return absl::StrFormat(value < 1e-3 ? "%.1e" : value < 0.0995 ? "%.4f" : "%.3f", value);
}

// NaN has no place in JSON: what could not be measured is null.
Json Number(double value) {
  if (!std::isfinite(value)) return nullptr;
  return std::round(value * 1e6) / 1e6;
}

Json FactsJson(const LikelihoodFacts& facts) {
  return Json{{"likelihood_format", kLikelihoodFormatVersion},
              {"model", facts.model},
              {"model_fingerprint", facts.model_fingerprint},
              {"device", facts.device},
              {"commit", facts.commit},
              {"prompt_tokens", facts.prompt_tokens},
              {"every", facts.every},
              {"tokens", facts.tokens},
              {"texts", facts.texts}};
}

Json PointJson(const LikelihoodFacts& facts, const LikelihoodFigures& f) {
  Json by_text = Json::array();
  for (const std::string& text : facts.texts) {
    const auto found = f.kl_by_text.find(text);
    by_text.push_back(found == f.kl_by_text.end() ? Json(nullptr) : Number(found->second));
  }
  const std::optional<double> target = TargetOf(f);
  return Json{{"name", NameOf(f)},
              {"policy", f.policy},
              {"window_tokens", f.window_tokens},
              {"formats", f.formats},
              {"budget", f.budget},
              {"target_percent", target.has_value() ? Json(*target) : Json(nullptr)},
              {"budget_tokens_mean", Number(f.budget_tokens_mean)},
              {"texts", f.kl_by_text.size()},
              {"positions", f.positions},
              {"bytes_percent_mean", Number(f.bytes_percent_mean)},
              {"bytes_percent_peak", Number(f.bytes_percent_peak)},
              {"live_tokens_mean", Number(f.live_tokens_mean)},
              {"kl_mean", Number(f.kl_mean)},
              {"kl_low", Number(f.kl_interval.low)},
              {"kl_high", Number(f.kl_interval.high)},
              {"kl_mean_last_half", Number(f.kl_mean_last_half)},
              {"kl_p95", Number(f.kl_p95)},
              {"agreement", Number(f.agreement)},
              {"perplexity", Number(f.perplexity)},
              {"perplexity_full", Number(f.full_perplexity)},
              {"kl_by_text", std::move(by_text)}};
}

std::string Joined(const std::set<std::string>& items) { return absl::StrJoin(items, ", "); }

std::string TextsOf(const LikelihoodFacts& facts) {
  return absl::StrCat(facts.texts.size(), facts.texts.size() == 1 ? " text" : " texts", " of ",
                      HumanCount(facts.tokens), " tokens together");
}

}  // namespace

std::vector<LikelihoodFigures> FiguresOf(const std::vector<PointResult>& results) {
  std::vector<std::vector<const PointResult*>> points;
  std::map<std::string, size_t> index;
  for (const PointResult& result : results) {
    PointIdentity point = result.identity;
    point.text = point.text_fingerprint = "";
    const std::string key = point.Key();
    const auto [found, fresh] = index.try_emplace(key, points.size());
    if (fresh) points.emplace_back();
    points[found->second].push_back(&result);
  }
  std::vector<LikelihoodFigures> figures;
  figures.reserve(points.size());
  for (const auto& of_one : points) figures.push_back(FiguresOfPoint(of_one));
  return figures;
}

LikelihoodFacts FactsOf(const std::string& model, const std::vector<PointResult>& results) {
  LikelihoodFacts facts;
  facts.model = model;
  std::set<std::string> fingerprints, devices, commits;
  std::map<std::string, uint32_t> texts;
  for (const PointResult& result : results) {
    fingerprints.insert(result.identity.model_fingerprint);
    devices.insert(result.device);
    commits.insert(result.commit);
    texts[result.identity.text] = result.tokens;
    facts.prompt_tokens = result.identity.prompt_tokens;
    facts.every = result.identity.every;
  }
  for (const auto& [text, tokens] : texts) {
    facts.texts.push_back(text);
    facts.tokens += tokens;
  }
  facts.model_fingerprint = Joined(fingerprints);
  facts.device = Joined(devices);
  facts.commit = Joined(commits);
  return facts;
}

std::string LikelihoodTable(const LikelihoodFacts& facts,
                            const std::vector<LikelihoodFigures>& figures, int columns) {
  Table table{.columns = {{"policy", false},
                          {"budget"},
                          {"bytes %"},
                          {"peak %"},
                          {"live"},
                          {"KL"},
                          {"+-"},
                          {"last half"},
                          {"p95"},
                          {"top-1 %"},
                          {"perplexity"},
                          {"full"}},
              .rows = {}};
  for (const LikelihoodFigures& f : figures) {
    table.rows.push_back(
        {NameOf(f), f.budget, absl::StrFormat("%.2f", f.bytes_percent_mean),
         absl::StrFormat("%.2f", f.bytes_percent_peak), absl::StrFormat("%.0f", f.live_tokens_mean),
         Nats(f.kl_mean), Nats(f.kl_interval.high - f.kl_mean), Nats(f.kl_mean_last_half),
         Nats(f.kl_p95), absl::StrFormat("%.2f", 100 * f.agreement),
         absl::StrFormat("%.3f", f.perplexity), absl::StrFormat("%.3f", f.full_perplexity)});
  }
  return absl::StrCat(
      facts.model, " on ", facts.device, ", ", TextsOf(facts), "\n\n", ToText(table, columns), "\n",
      Wrapped("KL: of the next token's distribution against the full cache's, in nats, mean over "
              "positions, then over texts; +-: half of its 95 % interval over texts. Bytes: of the "
              "full bf16 cache's.",
              columns, ""));
}

std::string LikelihoodJsonLines(const LikelihoodFacts& facts,
                                const std::vector<LikelihoodFigures>& figures) {
  std::string out = absl::StrCat(LineOf(FactsJson(facts)), "\n");
  for (const LikelihoodFigures& f : figures) {
    absl::StrAppend(&out, LineOf(PointJson(facts, f)), "\n");
  }
  return out;
}

std::string DrawDivergence(const LikelihoodFacts& facts,
                           const std::vector<LikelihoodFigures>& figures) {
  BytesPlot plot{.title = "How far a compressed cache changes what the model predicts",
                 .subtitle = absl::StrCat(facts.model, "  ·  ", TextsOf(facts),
                                          "  ·  bars: 95 % intervals over texts"),
                 .value_name = "KL of the next token's distribution, nats",
                 .logarithmic = true};
  std::map<std::string, size_t> index;
  for (const LikelihoodFigures& f : figures) {
    if (f.budget == "-" || !(f.kl_mean > 0) || !(f.bytes_percent_mean > 0)) continue;
    const std::string name = NameOf(f);
    const auto [found, fresh] = index.try_emplace(name, plot.series.size());
    if (fresh) plot.series.push_back({name, f.policy, name != f.policy, {}});
    plot.series[found->second].points.push_back(
        {f.bytes_percent_mean, {f.kl_mean, f.kl_interval.low, f.kl_interval.high}});
  }
  return Draw(std::move(plot));
}

}  // namespace palimpsest::cli
