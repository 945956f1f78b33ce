// SPDX-License-Identifier: Apache-2.0
#include "services/cli/likelihood/report.h"

#include <cmath>
#include <limits>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/build_info.h"
#include "nlohmann/json.hpp"
#include "services/cli/render.h"

namespace palimpsest::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kLikelihoodFormatVersion = 1;

LikelihoodFigures FiguresOfPoint(const std::vector<const PointResult*>& results) {
  const PointIdentity& identity = results.front()->identity;
  LikelihoodFigures f{.policy = identity.policy,
                      .budget = identity.budget,
                      .formats = identity.formats,
                      .texts = static_cast<uint32_t>(results.size())};
  const auto texts = static_cast<double>(results.size());
  double surprise = 0, full_surprise = 0;
  for (const PointResult* result : results) {
    const DivergenceSummary& d = result->divergence;
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
  }
  f.perplexity = std::exp(surprise);
  f.full_perplexity = std::exp(full_surprise);
  double squares = 0;
  for (const PointResult* result : results) {
    const double off = result->divergence.kl_mean - f.kl_mean;
    squares += off * off;
  }
  f.kl_error = results.size() > 1 ? std::sqrt(squares / (texts - 1) / texts)
                                  : std::numeric_limits<double>::quiet_NaN();
  return f;
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
  return value;
}

Json PointJson(const LikelihoodFigures& f) {
  return Json{
      {"policy", f.policy},
      {"budget", f.budget},
      {"formats", f.formats},
      {"texts", f.texts},
      {"positions", f.positions},
      {"bytes_percent_mean", Number(f.bytes_percent_mean)},
      {"bytes_percent_peak", Number(f.bytes_percent_peak)},
      {"live_tokens_mean", Number(f.live_tokens_mean)},
      {"kl_mean", Number(f.kl_mean)},
      {"kl_standard_error", Number(f.kl_error)},
      {"kl_mean_last_half", Number(f.kl_mean_last_half)},
      {"kl_p95", Number(f.kl_p95)},
      {"agreement", Number(f.agreement)},
      {"perplexity", Number(f.perplexity)},
      {"perplexity_full", Number(f.full_perplexity)},
  };
}

}  // namespace

std::vector<LikelihoodFigures> FiguresOf(const std::vector<PointResult>& results) {
  std::vector<std::vector<const PointResult*>> points;
  std::map<std::string, size_t> index;
  for (const PointResult& result : results) {
    const PointIdentity& identity = result.identity;
    const std::string key =
        absl::StrCat(identity.policy, "\n", identity.budget, "\n", identity.formats);
    const auto [found, fresh] = index.try_emplace(key, points.size());
    if (fresh) points.emplace_back();
    points[found->second].push_back(&result);
  }
  std::vector<LikelihoodFigures> figures;
  figures.reserve(points.size());
  for (const auto& point : points) figures.push_back(FiguresOfPoint(point));
  return figures;
}

std::string LikelihoodTable(const std::vector<LikelihoodFigures>& figures, int columns) {
  Table table{.columns = {{"policy", false},
                          {"budget"},
                          {"formats", false},
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
        {f.policy, f.budget, f.formats, absl::StrFormat("%.2f", f.bytes_percent_mean),
         absl::StrFormat("%.2f", f.bytes_percent_peak), absl::StrFormat("%.0f", f.live_tokens_mean),
         Nats(f.kl_mean), Nats(f.kl_error), Nats(f.kl_mean_last_half), Nats(f.kl_p95),
         absl::StrFormat("%.2f", 100 * f.agreement), absl::StrFormat("%.3f", f.perplexity),
         absl::StrFormat("%.3f", f.full_perplexity)});
  }
  return ToText(table, columns);
}

std::string LikelihoodJson(const LikelihoodFacts& facts,
                           const std::vector<LikelihoodFigures>& figures) {
  Json json{
      {"format_version", kLikelihoodFormatVersion},
      {"version", std::string(BuildVersion())},
      {"commit", std::string(BuildCommit())},
      {"model", facts.model},
      {"model_fingerprint", facts.model_fingerprint},
      {"device", facts.device},
      {"prompt_tokens", facts.prompt_tokens},
      {"texts", facts.texts},
      {"points", Json::array()},
  };
  for (const LikelihoodFigures& point : figures) json["points"].push_back(PointJson(point));
  return absl::StrCat(json.dump(2, ' ', false, Json::error_handler_t::replace), "\n");
}

}  // namespace palimpsest::cli
