// SPDX-License-Identifier: Apache-2.0
#include "services/decode/policy_defaults.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"

namespace palimpsest {
namespace {

bool Serves(const ServedPolicies& served, absl::string_view name) {
  return std::find(served.names.begin(), served.names.end(), name) != served.names.end();
}

// Filled, served, and one that can run. Errors begin with `where`.
absl::StatusOr<PolicySpec> Settled(const PolicyChoice& choice, const PolicySpec& otherwise,
                                   const ServedPolicies& served, absl::string_view where) {
  const auto refuse = [where](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat(where, why));
  };
  const absl::StatusOr<PolicySpec> spec = Filled(choice, otherwise);
  if (!spec.ok()) return refuse(spec.status().message());
  if (!Serves(served, spec->name)) {
    return refuse(absl::StrCat("policy: '", spec->name, "' is not served; allowed: ",
                               absl::StrJoin(served.names, ", "), ". --policies says which are"));
  }
  const absl::Status can_run = NewPolicy(*spec).status();
  if (!can_run.ok()) return refuse(can_run.message());
  return spec;
}

}  // namespace

const PolicySpec& PolicyDefaults::of(absl::string_view tenant) const {
  const auto found = tenants.find(tenant);
  return found == tenants.end() ? worker : found->second;
}

absl::StatusOr<PolicyDefaults> ChooseDefaults(const PolicyChoice& worker,
                                              const TenantChoices& tenants,
                                              const ServedPolicies& served) {
  PolicyDefaults defaults;
  std::string preferred = served.names.front();
  if (!worker.name.empty()) {
    defaults.because = "it was chosen";
  } else if (Serves(served, "anticipate")) {
    preferred = "anticipate";
    defaults.because = "there is a codebook";
  } else {
    if (Serves(served, "thinkv")) preferred = "thinkv";
    defaults.because =
        "anticipate is not served; it wants a codebook, and `palimpsest calibrate` makes one";
  }
  KV_ASSIGN_OR_RETURN(const PolicySpec own, DefaultSpec(preferred));
  KV_ASSIGN_OR_RETURN(defaults.worker, Settled(worker, own, served, "default_policy: "));
  for (const auto& [tenant, choice] : tenants) {
    KV_ASSIGN_OR_RETURN(defaults.tenants[tenant], Settled(choice, defaults.worker, served,
                                                          absl::StrCat("tenants: ", tenant, ": ")));
  }
  return defaults;
}

}  // namespace palimpsest
