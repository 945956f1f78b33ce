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

absl::StatusOr<uint32_t> ParseBudget(const std::string& item) {
  uint32_t tokens = 0;
  if (absl::SimpleAtoi(item, &tokens) && tokens >= kWindowTokensMin &&
      tokens <= limits::kPositionMax) {
    return tokens;
  }
  return Wrong(absl::StrCat("--budget: ", Quoted(item), " is not a number of tokens from ",
                            kWindowTokensMin, " to ", limits::kPositionMax, ", for example 512"));
}

absl::StatusOr<double> ParseBytes(const std::string& item) {
  double percent = 0;
  if (absl::SimpleAtod(item, &percent) && percent > 0 && percent <= 100) return percent;
  return Wrong(absl::StrCat("--bytes: ", Quoted(item),
                            " is not a percentage above 0 and up to 100, for example 5"));
}

absl::StatusOr<uint32_t> ParseWindow(const std::string& item) {
  uint32_t tokens = 0;
  if (absl::SimpleAtoi(item, &tokens) && tokens <= kWindowTokensMax &&
      tokens % kWindowTokensMin == 0) {
    return tokens;
  }
  return Wrong(absl::StrCat("--windows: ", Quoted(item), " is not a multiple of ", kWindowTokensMin,
                            " up to ", kWindowTokensMax, ", or 0 for what suits the budget"));
}

template <typename T>
absl::StatusOr<std::vector<T>> ParseAll(const std::vector<std::string>& items,
                                        absl::StatusOr<T> (*parse)(const std::string& item)) {
  std::vector<T> values;
  for (const std::string& item : items) {
    KV_ASSIGN_OR_RETURN(values.emplace_back(), parse(item));
  }
  return values;
}

// What does not evict has no windows either.
absl::StatusOr<std::vector<PolicySpec>> WithWindows(const PolicySpec& spec,
                                                    const std::vector<uint32_t>& windows) {
  if (windows.empty() || !IsBounded(spec)) return std::vector<PolicySpec>{spec};
  std::vector<PolicySpec> specs;
  for (const uint32_t window : windows) {
    specs.push_back(spec);
    specs.back().window_tokens = window;
    const absl::Status known = NewPolicy(specs.back()).status();
    if (!known.ok()) return Wrong(absl::StrCat("--windows: ", known.message()));
  }
  return specs;
}

absl::StatusOr<std::vector<PolicySpec>> Specs(const GridChoice& choice) {
  KV_ASSIGN_OR_RETURN(const std::vector<uint32_t> windows, ParseAll(choice.windows, ParseWindow));
  std::vector<PolicySpec> specs;
  std::vector<std::string> items = FormatItems(choice.formats);
  if (items.empty()) items.emplace_back(kOwnFormats);
  for (const std::string& name : choice.policy) {
    absl::StatusOr<PolicySpec> spec = DefaultSpec(name);
    if (!spec.ok()) return Wrong(absl::StrCat("--policy: ", spec.status().message()));
    const PolicySpec own = *spec;
    for (const std::string& item : items) {
      KV_ASSIGN_OR_RETURN(spec->formats, ParseFormats(item, own));
      KV_ASSIGN_OR_RETURN(const std::vector<PolicySpec> with, WithWindows(*spec, windows));
      specs.insert(specs.end(), with.begin(), with.end());
    }
  }
  return specs;
}

absl::StatusOr<GridPoint> WithBudget(PolicySpec spec, uint32_t budget) {
  spec.budget_tokens = budget;
  const auto policy = NewPolicy(spec);
  if (!policy.ok()) return Wrong(absl::StrCat("--budget: ", policy.status().message()));
  return GridPoint{.spec = std::move(spec), .bounded = true};
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
  // All that was written is checked, also what no policy of this grid looks at.
  KV_ASSIGN_OR_RETURN(const std::vector<uint32_t> budgets, ParseAll(choice.budget, ParseBudget));
  KV_ASSIGN_OR_RETURN(const std::vector<double> shares, ParseAll(choice.bytes, ParseBytes));
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
    for (const double percent : shares) {
      add({.spec = spec, .bounded = true, .target_percent = percent});
    }
    for (const uint32_t budget : budgets) {
      KV_ASSIGN_OR_RETURN(GridPoint point, WithBudget(spec, budget));
      add(std::move(point));
    }
  }
  return points;
}

}  // namespace palimpsest::cli
