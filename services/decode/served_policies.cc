// SPDX-License-Identifier: Apache-2.0
#include "services/decode/served_policies.h"

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/policy/policy.h"

namespace palimpsest {
namespace {

absl::StatusOr<Selection> SelectionOf(const std::string& name) {
  absl::StatusOr<PolicySpec> spec = DefaultSpec(name);
  if (!spec.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("policies: ", spec.status().message()));
  }
  KV_ASSIGN_OR_RETURN(const std::unique_ptr<const Policy> policy, NewPolicy(*spec));
  return policy->selection();
}

}  // namespace

ChainNeeds NeedsOf(const Selection& selection) {
  return {.slot_scores = SlotScoreOf(selection.selector) != SlotScore::kNone,
          .residue = selection.residue};
}

absl::StatusOr<ServedPolicies> ServePolicies(absl::Span<const std::string> wanted,
                                             bool has_codebook) {
  const std::vector<std::string> all = PolicyNames();
  ServedPolicies served;
  for (const std::string& name : wanted.empty() ? absl::MakeConstSpan(all) : wanted) {
    KV_ASSIGN_OR_RETURN(const Selection selection, SelectionOf(name));
    const Selector selector = selection.selector;
    const ChainNeeds needs = NeedsOf(selection);
    const bool queries = NeedsQueries(selector);
    const bool codebook_missing = selector == Selector::kAnticipated && !has_codebook;
    if (wanted.empty() && (needs.slot_scores || queries || codebook_missing)) continue;
    if (codebook_missing) {
      return absl::InvalidArgumentError(
          absl::StrCat("policies: '", name,
                       "' wants a codebook of the model's queries; `palimpsest calibrate` makes "
                       "one, --codebook says where it is"));
    }
    served.names.push_back(name);
    served.slot_scores |= needs.slot_scores;
    served.residue |= needs.residue;
    if (queries) served.query_window = kQueriesKept;
  }
  return served;
}

}  // namespace palimpsest
