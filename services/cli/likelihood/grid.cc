// SPDX-License-Identifier: Apache-2.0
#include "services/cli/likelihood/grid.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"

namespace palimpsest::cli {
namespace {

absl::Status Wrong(absl::string_view message) { return absl::InvalidArgumentError(message); }

bool IsBounded(const PolicySpec& spec) { return spec.budget_tokens < limits::kPositionMax; }

bool IsFullCache(const GridPoint& point) {
  return !point.bounded &&
         point.spec.formats == ClassFormats::Uniform({Format::kBf16, Format::kBf16});
}

absl::StatusOr<GridPoint> WithBudget(PolicySpec spec, const std::string& budget) {
  if (!absl::SimpleAtoi(budget, &spec.budget_tokens)) {
    return Wrong(
        absl::StrCat("--budget: ", Quoted(budget), " is not a number of tokens, for example 512"));
  }
  const auto policy = NewPolicy(spec);
  if (!policy.ok()) return Wrong(absl::StrCat("--budget: ", policy.status().message()));
  return GridPoint{.spec = std::move(spec), .bounded = true, .bytes_percent = std::nullopt};
}

absl::StatusOr<GridPoint> WithBytes(PolicySpec spec, const std::string& bytes) {
  double percent = 0;
  if (!absl::SimpleAtod(bytes, &percent) || !(percent > 0 && percent <= 100)) {
    return Wrong(absl::StrCat("--bytes: ", Quoted(bytes),
                              " is not a percentage above 0 and up to 100, for example 5"));
  }
  return GridPoint{.spec = std::move(spec), .bounded = true, .bytes_percent = percent};
}

absl::StatusOr<PolicySpec> WithWindow(PolicySpec spec, const std::string& window) {
  if (absl::SimpleAtoi(window, &spec.window_tokens)) return spec;
  return Wrong(
      absl::StrCat("--windows: ", Quoted(window), " is not a number of tokens, for example 128"));
}

absl::Status AddPoints(const GridSettings& settings, const PolicySpec& spec,
                       std::vector<GridPoint>& points) {
  if (!IsBounded(spec)) {
    points.push_back({.spec = spec, .bounded = false, .bytes_percent = std::nullopt});
    return absl::OkStatus();
  }
  for (const std::string& window : settings.windows) {
    GridSettings one = settings;
    one.windows.clear();
    KV_ASSIGN_OR_RETURN(const PolicySpec with, WithWindow(spec, window));
    KV_RETURN_IF_ERROR(AddPoints(one, with, points));
  }
  if (!settings.windows.empty()) return absl::OkStatus();
  for (const std::string& budget : settings.budget) {
    KV_ASSIGN_OR_RETURN(GridPoint point, WithBudget(spec, budget));
    points.push_back(std::move(point));
  }
  for (const std::string& bytes : settings.bytes) {
    KV_ASSIGN_OR_RETURN(GridPoint point, WithBytes(spec, bytes));
    points.push_back(std::move(point));
  }
  return absl::OkStatus();
}

}  // namespace

std::string GridPoint::BudgetLabel() const {
  if (bytes_percent.has_value()) return absl::StrFormat("%g%%", *bytes_percent);
  return bounded ? absl::StrCat(spec.budget_tokens) : "-";
}

absl::StatusOr<std::vector<GridPoint>> MakeGrid(const GridSettings& settings) {
  std::vector<GridPoint> points;
  for (const std::string& name : settings.policy) {
    absl::StatusOr<PolicySpec> spec = DefaultSpec(name);
    if (!spec.ok()) return Wrong(absl::StrCat("--policy: ", spec.status().message()));
    if (settings.formats.empty()) KV_RETURN_IF_ERROR(AddPoints(settings, *spec, points));
    for (const std::string& text : settings.formats) {
      const absl::StatusOr<ClassFormats> formats = ParseClassFormats(text);
      if (!formats.ok()) return Wrong(absl::StrCat("--formats: ", formats.status().message()));
      spec->formats = *formats;
      KV_RETURN_IF_ERROR(AddPoints(settings, *spec, points));
    }
  }
  points.erase(std::remove_if(points.begin(), points.end(), IsFullCache), points.end());
  if (points.empty()) {
    return Wrong(
        "--policy, --budget, --bytes, --formats: there is nothing to compare with the full cache; "
        "allowed: a policy with a budget, as in --policy thinkv --budget 512, or the full cache in "
        "other formats, as in --policy full --formats nvfp4");
  }
  for (size_t i = 0; i < points.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (points[i].spec == points[j].spec && points[i].bytes_percent == points[j].bytes_percent) {
        return Wrong(absl::StrCat("--policy, --budget, --bytes, --formats: ", points[i].spec.name,
                                  " at ", points[i].BudgetLabel(), " is given twice"));
      }
    }
  }
  return points;
}

}  // namespace palimpsest::cli
