// SPDX-License-Identifier: Apache-2.0
// Every policy there is, in one table. A new one is a file with a factory, declared in policies.h,
// and a line with its defaults here.
#include <array>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/policy/policies.h"

namespace palimpsest {
namespace {

struct Entry {
  absl::string_view name;
  absl::StatusOr<std::unique_ptr<const Policy>> (*make)(const PolicySpec& spec);
  PolicySpec (*default_spec)();
  absl::string_view description;
};

constexpr ClassFormats kBf16 = ClassFormats::Uniform({Format::kBf16, Format::kBf16});

// Nothing is evicted, so the budget is what a sequence can reach.
PolicySpec FullSpec() {
  return {.name = "full", .budget_tokens = limits::kPositionMax, .formats = kBf16};
}

// Needs no statistics, so its windows only bound the length of segments, and k can be as small.
PolicySpec WindowSpec() { return {.name = "window", .window_tokens = 64, .formats = kBf16}; }

constexpr ClassFormats kInt4 = ClassFormats::Uniform({Format::kInt4, Format::kInt4});

// Ours.
PolicySpec AnticipateSpec() { return {.name = "anticipate", .window_tokens = 0, .formats = kInt4}; }

// Others' policies that evict and do not quantise, as their papers have them. A window is how
// often they choose.
PolicySpec H2oSpec() { return {.name = "h2o", .window_tokens = 16, .formats = kBf16}; }
PolicySpec LongFlowSpec() { return {.name = "longflow", .window_tokens = 16, .formats = kBf16}; }
PolicySpec RandomSpec() { return {.name = "random", .window_tokens = 16, .formats = kBf16}; }
PolicySpec RkvSpec() { return {.name = "rkv", .window_tokens = 128, .formats = kBf16}; }

PolicySpec ThinKvSpec() { return {.name = "thinkv"}; }

constexpr std::array<Entry, 8> kEntries = {{
    {"anticipate", NewAnticipatePolicy, AnticipateSpec,
     "keeps what the model's typical queries would miss most (ours)"},
    {"full", NewFullPolicy, FullSpec, "keeps every token: the baseline"},
    {"h2o", NewH2oPolicy, H2oSpec,
     "half the newest, half those that received most attention (H2O, arXiv 2306.14048)"},
    {"longflow", NewLongFlowPolicy, LongFlowSpec,
     "evicts a token a step by attention x norm of its value (LongFlow, arXiv 2603.11504)"},
    {"random", NewRandomPolicy, RandomSpec, "keeps tokens drawn at random: a control"},
    {"rkv", NewRkvPolicy, RkvSpec,
     "importance to the newest queries against redundancy (R-KV, arXiv 2505.24133)"},
    {"thinkv", NewThinKvPolicy, ThinKvSpec,
     "precision and eviction by the kind of thought (ThinKV, arXiv 2510.01290)"},
    {"window", NewWindowPolicy, WindowSpec, "keeps the prompt and the most recent tokens"},
}};

std::string NameError(absl::string_view name) {
  return absl::StrCat("policy '", name, "': expected one of ", absl::StrJoin(PolicyNames(), ", "));
}

const Entry* Find(absl::string_view name) {
  for (const Entry& entry : kEntries) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Policy>> NewPolicy(const PolicySpec& spec) {
  const Entry* entry = Find(spec.name);
  if (entry == nullptr) return absl::InvalidArgumentError(NameError(spec.name));
  KV_RETURN_IF_ERROR(Validate(spec));
  return entry->make(spec);
}

std::vector<std::string> PolicyNames() {
  std::vector<std::string> names;
  names.reserve(kEntries.size());
  for (const Entry& entry : kEntries) names.emplace_back(entry.name);
  return names;
}

absl::StatusOr<std::string> PolicyDescription(absl::string_view policy_name) {
  const Entry* entry = Find(policy_name);
  if (entry == nullptr) return absl::NotFoundError(NameError(policy_name));
  return std::string(entry->description);
}

absl::StatusOr<PolicySpec> DefaultSpec(absl::string_view policy_name) {
  const Entry* entry = Find(policy_name);
  if (entry == nullptr) return absl::NotFoundError(NameError(policy_name));
  return entry->default_spec();
}

}  // namespace palimpsest
