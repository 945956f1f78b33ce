// SPDX-License-Identifier: Apache-2.0
#include "services/cli/likelihood/grid.h"

#include <algorithm>
#include <cmath>

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

absl::Status AddPoints(const GridSettings& settings, const PolicySpec& spec,
                       std::vector<GridPoint>& points) {
  if (!IsBounded(spec)) {
    points.push_back({.spec = spec, .bounded = false, .bytes_percent = std::nullopt});
    return absl::OkStatus();
  }
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

// Live sealed tokens that a chain has at most beside prompt and budget: what is sealed before the
// policy chooses again.
uint32_t TokensBeyondBudget(const PolicySpec& spec, const Policy& policy) {
  return policy.one_segment() ? spec.window_tokens : uint32_t{kGroupTokens};
}

// Bytes averaged over the steps of decoding, against the full cache's.
double BytesPercent(const PolicySpec& spec, uint32_t beyond, const ChainShape& chain) {
  const uint64_t page_bytes =
      MakePageLayout(chain.cache, spec.formats.of(Thought::kReasoning)).page_bytes +
      sizeof(uint64_t);  // its entry in the block table
  const uint64_t fixed = OpenGroupBytes(chain.cache) + chain.query_bytes;
  const uint64_t live_max = uint64_t{chain.prompt_tokens} + spec.budget_tokens + beyond;
  double held = 0, full = 0;
  for (uint64_t tokens = chain.prompt_tokens; tokens < chain.tokens; ++tokens) {
    const uint64_t sealed = tokens / kGroupTokens * kGroupTokens;
    const uint64_t pages = (std::min(sealed, live_max) + kSlotsPerPage - 1) / kSlotsPerPage;
    held += static_cast<double>(fixed + pages * page_bytes);
    full += static_cast<double>(tokens * FullTokenBytes(chain.cache));
  }
  return 100 * held / full;
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

absl::StatusOr<uint32_t> BudgetForBytes(const PolicySpec& spec, const ChainShape& chain,
                                        double percent) {
  PolicySpec probe = spec;
  const auto allowed = [&](uint32_t budget) {
    probe.budget_tokens = budget;
    return NewPolicy(probe);
  };
  uint32_t least = 1;
  while (least < chain.tokens && !allowed(least).ok()) ++least;
  KV_ASSIGN_OR_RETURN(const std::unique_ptr<const Policy> policy, allowed(least));
  const uint32_t beyond = TokensBeyondBudget(spec, *policy);
  const auto percent_at = [&](uint32_t budget) {
    probe.budget_tokens = budget;
    return BytesPercent(probe, beyond, chain);
  };
  if (percent_at(least) > percent) {
    return absl::OutOfRangeError(
        absl::StrFormat("%s: %g %% of the full cache's bytes is out of reach for a text of %d "
                        "tokens; allowed: %.2f "
                        "or more",
                        spec.name, percent, chain.tokens, percent_at(least)));
  }
  uint32_t low = least, high = std::max(chain.tokens, least + 1);  // low fits; high may not
  while (low + 1 < high) {
    const uint32_t middle = low + (high - low) / 2;
    (percent_at(middle) <= percent ? low : high) = middle;
  }
  return low;
}

}  // namespace palimpsest::cli
