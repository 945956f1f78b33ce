// SPDX-License-Identifier: Apache-2.0
#include "services/cli/eval/report.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "services/cli/json_lines.h"
#include "services/cli/render.h"

namespace palimpsest::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kLongerChains = 1.05;  // over the full cache's: worth a sentence
constexpr double kOffTarget = 1.1;      // bytes over what was asked for

std::string Fixed(double value, int digits) {
  return std::isfinite(value) ? absl::StrFormat("%.*f", digits, value) : "-";
}

// Two or three significant digits: 2.51, 10.3, 102.
std::string Percent(double percent) {
  return Fixed(percent, percent < 9.995 ? 2 : percent < 99.95 ? 1 : 0);
}

std::string Count(double value) {
  return std::isfinite(value) ? HumanCount(static_cast<uint64_t>(std::llround(value))) : "-";
}

std::string ShareOf(uint32_t part, uint32_t whole) { return Percent(PercentOf(part, whole)); }

std::vector<std::string> LabelsWhere(const std::vector<PointFigures>& figures,
                                     bool (*is)(const PointFigures&)) {
  std::vector<std::string> labels;
  for (const PointFigures& f : figures) {
    if (is(f)) labels.push_back(f.point.Label());
  }
  return labels;
}

// Not a number has no place in JSON: what could not be measured is null.
Json Number(double value) {
  if (!std::isfinite(value)) return nullptr;
  return std::round(value * 1e6) / 1e6;
}

Json PointJson(const PointFigures& f) {
  Json json = ToJson(f.point);
  json["label"] = f.point.Label();
  json["chains"] = f.chains;
  json["chains_wanted"] = f.wanted;
  json["chains_lost"] = f.lost;
  json["right"] = f.right;
  json["accuracy"] = Number(f.accuracy);
  json["accuracy_low"] = Number(f.interval.low);
  json["accuracy_high"] = Number(f.interval.high);
  json["bytes_mean_percent"] = Number(f.bytes_mean_percent);
  json["bytes_peak_percent"] = Number(f.bytes_peak_percent);
  json["bytes_worst_percent"] = Number(f.bytes_worst_percent);
  json["live_tokens_mean"] = Number(f.live_mean);
  json["live_tokens_peak"] = f.live_peak;
  json["tokens"] = f.tokens;
  json["tokens_mean"] = Number(f.tokens_mean);
  json["tokens_to_full"] = Number(f.tokens_to_full);
  json["same_as_full"] = f.compared > 0 ? Json(f.same_as_full) : Json(nullptr);
  json["cut_off"] = f.cut_off;
  json["loops"] = f.loops;
  json["chain_tokens_per_second"] = Number(f.chain_tokens_per_second);
  json["plans_applied"] = f.plans_applied;
  json["pressure_reliefs"] = f.pressure_reliefs;
  return json;
}

}  // namespace

std::string EvalTable(const std::vector<PointFigures>& figures, int columns) {
  Table table{.columns = {{"policy", false},
                          {"aim %"},
                          {"bytes %"},
                          {"peak %"},
                          {"accuracy"},
                          {"95 %", false},
                          {"right"},
                          {"tokens"},
                          {"x full"},
                          {"cut %"},
                          {"loop %"},
                          {"live"},
                          {"tok/s"}},
              .rows = {}};
  for (const PointFigures& f : figures) {
    const std::string interval =
        f.chains > 0 ? absl::StrFormat("%.3f-%.3f", f.interval.low, f.interval.high) : "-";
    table.rows.push_back(
        {f.point.Label(),
         f.point.target_percent.has_value() ? absl::StrFormat("%g", *f.point.target_percent) : "-",
         Percent(f.bytes_mean_percent), Percent(f.bytes_peak_percent), Fixed(f.accuracy, 3),
         interval, absl::StrCat(f.right, "/", f.chains), Count(f.tokens_mean),
         Fixed(f.tokens_to_full, 2), ShareOf(f.cut_off, f.chains), ShareOf(f.loops, f.chains),
         Count(f.live_mean), Fixed(f.chain_tokens_per_second, 0)});
  }
  return absl::StrCat(
      ToText(table, columns), "\n",
      Wrapped(
          "bytes: all bytes of the chains' caches over K and V of the same tokens in bf16, mean "
          "over all steps; peak: at their largest, over the full size at the end. 95 %: Wilson's "
          "interval. tokens: generated, a chain; x full: over those of the full cache on the "
          "same problems. cut: reached the token limit; loop: ends in an n-gram that is "
          "repeated. live: tokens of a lane, mean over all steps. tok/s: of one chain in its "
          "batch.",
          columns, ""));
}

std::vector<std::string> EvalNotes(const EvalHeader& header,
                                   const std::vector<PointFigures>& figures) {
  std::vector<std::string> notes;
  const auto say = [&](const std::vector<std::string>& labels, absl::string_view text) {
    if (!labels.empty()) notes.push_back(absl::StrCat(absl::StrJoin(labels, ", "), text));
  };
  if (header.synthetic)
    notes.push_back("The model's weights are random: no answer means anything.");
  say(LabelsWhere(figures, [](const PointFigures& f) { return f.chains + f.lost < f.wanted; }),
      ": not finished: these are figures of the chains that have ended, and the longest problems "
      "are run first.");
  say(LabelsWhere(figures, [](const PointFigures& f) { return f.lost > 0; }),
      ": chains were lost to errors of the worker; they are not in the figures. Run it again.");
  say(LabelsWhere(figures, [](const PointFigures& f) { return f.tokens_to_full > kLongerChains; }),
      ": chains are longer than with the full cache; bytes and time saved shrink by as much.");
  say(LabelsWhere(figures,
                  [](const PointFigures& f) {
                    return f.point.target_percent.has_value() &&
                           f.bytes_mean_percent > kOffTarget * *f.point.target_percent;
                  }),
      ": hold more bytes than was aimed at; compare at the bytes they hold.");
  say(LabelsWhere(figures, [](const PointFigures& f) { return f.pressure_reliefs > 0; }),
      ": the page pool was full at times, and chains were evicted from beyond their policy. Give "
      "--pool-bytes more, or --batch less.");
  // The full cache is compared with itself.
  if (std::none_of(figures.begin(), figures.end(),
                   [](const PointFigures& f) { return f.compared > 0; })) {
    notes.push_back("The full cache was not run: nothing says what these chains would have been.");
  }
  return notes;
}

std::string EvalJsonLines(const EvalHeader& header, const std::vector<PointFigures>& figures) {
  Json first = ToJson(header);
  first["points"] = figures.size();
  first["notes"] = EvalNotes(header, figures);
  std::string out = absl::StrCat(LineOf(first), "\n");
  for (const PointFigures& f : figures) absl::StrAppend(&out, LineOf(PointJson(f)), "\n");
  return out;
}

}  // namespace palimpsest::cli
