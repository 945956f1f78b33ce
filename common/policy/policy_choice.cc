// SPDX-License-Identifier: Apache-2.0
#include "common/policy/policy_choice.h"

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"

namespace palimpsest {

PolicyChoice ChoiceOf(const PolicySpec& spec) {
  return {.name = spec.name,
          .budget_tokens = spec.budget_tokens,
          .window_tokens = spec.window_tokens,
          .retention = spec.retention,
          .formats = spec.formats,
          .sparsity_layers = spec.sparsity_layers,
          .theta = spec.theta};
}

absl::StatusOr<PolicySpec> Filled(const PolicyChoice& choice, const PolicySpec& otherwise) {
  PolicySpec spec = otherwise;
  if (!choice.name.empty()) {
    KV_ASSIGN_OR_RETURN(spec, DefaultSpec(choice.name));
  }
  if (choice.budget_tokens > 0) spec.budget_tokens = choice.budget_tokens;
  if (choice.window_tokens > 0) spec.window_tokens = choice.window_tokens;
  if (!choice.retention.empty()) spec.retention = choice.retention;
  if (choice.formats.has_value()) spec.formats = *choice.formats;
  if (!choice.sparsity_layers.empty()) spec.sparsity_layers = choice.sparsity_layers;
  if (!choice.theta.empty()) spec.theta = choice.theta;
  return spec;
}

std::string Described(const PolicySpec& spec) {
  std::string text = spec.name;
  if (spec.budget_tokens < limits::kPositionMax) {
    absl::StrAppend(&text, " k=", spec.budget_tokens, " window=", WindowTokensOf(spec));
  }
  return absl::StrCat(text, " ", ToString(spec.formats));
}

}  // namespace palimpsest
