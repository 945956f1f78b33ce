// SPDX-License-Identifier: Apache-2.0
// Which policy a request gets that names none: its tenant's, or else the worker's.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/policy/policy_choice.h"
#include "services/decode/served_policies.h"

namespace palimpsest {

// As the settings say it; what they leave out is filled.
using TenantChoices = std::map<std::string, PolicyChoice>;

struct PolicyDefaults {
  PolicySpec worker = {};
  std::string because = {};  // why the worker's is the one it is
  std::map<std::string, PolicySpec, std::less<>> tenants = {};

  const PolicySpec& of(absl::string_view tenant) const;
};

// The worker's is `worker`; where that names no policy, "anticipate" if it is served (it is the
// best at equal bytes, but wants a codebook), else "thinkv", else the first that is served. A
// tenant's is what is said for it; where that names no policy, the rest is as in the worker's.
// InvalidArgument names the setting, the tenant and the field, and what is allowed.
absl::StatusOr<PolicyDefaults> ChooseDefaults(const PolicyChoice& worker,
                                              const TenantChoices& tenants,
                                              const ServedPolicies& served);

}  // namespace palimpsest
