// SPDX-License-Identifier: Apache-2.0
#include "services/cli/grid/points.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/base/text.h"

namespace palimpsest::cli {
namespace {

constexpr absl::string_view kOwnFormats = "default";

absl::Status Wrong(absl::string_view message) { return absl::InvalidArgumentError(message); }

bool IsBounded(const PolicySpec& spec) { return spec.budget_tokens < limits::kPositionMax; }

// Commas part a list's items and the classes of R=...,E=...,T=...: puts the latter together again.
std::vector<std::string> FormatItems(const std::vector<std::string>& pieces) {
  std::vector<std::string> items;
  for (const std::string& piece : pieces) {
    const bool continues = !items.empty() && absl::StrContains(items.back(), '=') &&
                           absl::StrContains(piece, '=') &&
                           std::count(items.back().begin(), items.back().end(), '=') < 3;
    if (continues) {
      absl::StrAppend(&items.back(), ",", piece);
    } else {
      items.push_back(piece);
    }
  }
  return items;
}

absl::StatusOr<ClassFormats> ParseFormats(const std::string& item, const PolicySpec& own) {
  if (item == kOwnFormats) return own.formats;
  absl::StatusOr<ClassFormats> formats = ParseClassFormats(item);
  if (formats.ok()) return formats;
  return Wrong(absl::StrCat("--formats: ", formats.status().message(), ", or ", kOwnFormats,
                            " for the policy's own"));
}

// What does not evict has no windows either.
absl::StatusOr<std::vector<PolicySpec>> WithWindows(const PolicySpec& spec,
                                                    const std::vector<std::string>& windows) {
  if (windows.empty() || !IsBounded(spec)) return std::vector<PolicySpec>{spec};
  std::vector<PolicySpec> specs;
  for (const std::string& window : windows) {
    specs.push_back(spec);
    if (!absl::SimpleAtoi(window, &specs.back().window_tokens)) {
      return Wrong(absl::StrCat("--windows: ", Quoted(window),
                                " is not a number of tokens, for example 128"));
    }
  }
  return specs;
}

absl::StatusOr<std::vector<PolicySpec>> Specs(const GridChoice& choice) {
  std::vector<PolicySpec> specs;
  std::vector<std::string> items = FormatItems(choice.formats);
  if (items.empty()) items.emplace_back(kOwnFormats);
  for (const std::string& name : choice.policy) {
    absl::StatusOr<PolicySpec> spec = DefaultSpec(name);
    if (!spec.ok()) return Wrong(absl::StrCat("--policy: ", spec.status().message()));
    const PolicySpec own = *spec;
    for (const std::string& item : items) {
      KV_ASSIGN_OR_RETURN(spec->formats, ParseFormats(item, own));
      KV_ASSIGN_OR_RETURN(const std::vector<PolicySpec> with, WithWindows(*spec, choice.windows));
      specs.insert(specs.end(), with.begin(), with.end());
    }
  }
  return specs;
}

absl::StatusOr<GridPoint> WithBudget(PolicySpec spec, const std::string& budget) {
  if (!absl::SimpleAtoi(budget, &spec.budget_tokens)) {
    return Wrong(
        absl::StrCat("--budget: ", Quoted(budget), " is not a number of tokens, for example 512"));
  }
  const auto policy = NewPolicy(spec);
  if (!policy.ok()) return Wrong(absl::StrCat("--budget: ", policy.status().message()));
  return GridPoint{.spec = std::move(spec), .bounded = true};
}

absl::StatusOr<GridPoint> WithBytes(const PolicySpec& spec, const std::string& bytes) {
  double percent = 0;
  if (!absl::SimpleAtod(bytes, &percent) || !(percent > 0 && percent <= 100)) {
    return Wrong(absl::StrCat("--bytes: ", Quoted(bytes),
                              " is not a percentage above 0 and up to 100, for example 5"));
  }
  return GridPoint{.spec = spec, .bounded = true, .target_percent = percent};
}

}  // namespace

bool GridPoint::is_full() const {
  return !bounded && spec.formats == ClassFormats::Uniform({Format::kBf16, Format::kBf16});
}

std::string GridPoint::Label() const {
  std::string label = spec.name;
  if (bounded) absl::StrAppend(&label, " k=", spec.budget_tokens);
  const absl::StatusOr<PolicySpec> own = DefaultSpec(spec.name);
  if (!own.ok()) return label;
  if (own->window_tokens != spec.window_tokens) {
    absl::StrAppend(&label, " tau=", spec.window_tokens);
  }
  if (own->formats != spec.formats) absl::StrAppend(&label, " ", ToString(spec.formats));
  return label;
}

std::string GridPoint::BudgetLabel() const {
  if (target_percent.has_value()) return absl::StrFormat("%g%%", *target_percent);
  return bounded ? absl::StrCat(spec.budget_tokens) : "-";
}

std::string GridPoint::Key() const {
  return absl::StrCat(spec.name, " k=", bounded ? absl::StrCat(spec.budget_tokens) : "-",
                      " tau=", spec.window_tokens, " ", ToString(spec.formats),
                      aid.empty() ? "" : " aid=", aid);
}

std::string SeriesName(const GridPoint& point) {
  GridPoint unbounded = point;
  unbounded.bounded = false;
  return unbounded.Label();
}

absl::StatusOr<std::vector<GridPoint>> MakeGrid(const GridChoice& choice) {
  KV_ASSIGN_OR_RETURN(const std::vector<PolicySpec> specs, Specs(choice));
  std::vector<GridPoint> points;
  const auto add = [&points](GridPoint point) {
    const bool known = std::any_of(points.begin(), points.end(), [&](const GridPoint& other) {
      return other.spec == point.spec && other.target_percent == point.target_percent;
    });
    if (!known) points.push_back(std::move(point));
  };
  for (const PolicySpec& spec : specs) {
    if (!IsBounded(spec)) {
      add({.spec = spec, .bounded = false});
      continue;
    }
    if (choice.budget.empty() && choice.bytes.empty()) {
      return Wrong(absl::StrCat("--budget or --bytes: policy ", spec.name, " wants one"));
    }
    for (const std::string& bytes : choice.bytes) {
      KV_ASSIGN_OR_RETURN(GridPoint point, WithBytes(spec, bytes));
      add(std::move(point));
    }
    for (const std::string& budget : choice.budget) {
      KV_ASSIGN_OR_RETURN(GridPoint point, WithBudget(spec, budget));
      add(std::move(point));
    }
  }
  return points;
}

}  // namespace palimpsest::cli
