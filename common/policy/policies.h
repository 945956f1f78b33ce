// SPDX-License-Identifier: Apache-2.0
// The factories behind registry.cc, one a file, and the check they share. Callers use policy.h.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/policy/policy.h"

namespace palimpsest {

// Checks the fields that every policy has. InvalidArgument names the field, its value and what is
// allowed. The name is the registry's business.
absl::Status Validate(const PolicySpec& spec);

// REQUIRES of each: Validate(spec) is OK. InvalidArgument for what this policy alone cannot do.
absl::StatusOr<std::unique_ptr<const Policy>> NewFullPolicy(const PolicySpec& spec);
absl::StatusOr<std::unique_ptr<const Policy>> NewAnticipatePolicy(const PolicySpec& spec);
absl::StatusOr<std::unique_ptr<const Policy>> NewH2oPolicy(const PolicySpec& spec);
absl::StatusOr<std::unique_ptr<const Policy>> NewLongFlowPolicy(const PolicySpec& spec);
absl::StatusOr<std::unique_ptr<const Policy>> NewRandomPolicy(const PolicySpec& spec);
absl::StatusOr<std::unique_ptr<const Policy>> NewRkvPolicy(const PolicySpec& spec);
absl::StatusOr<std::unique_ptr<const Policy>> NewThinKvPolicy(const PolicySpec& spec);
absl::StatusOr<std::unique_ptr<const Policy>> NewWindowPolicy(const PolicySpec& spec);

}  // namespace palimpsest
