// SPDX-License-Identifier: Apache-2.0
// The policies that the benchmarks compare.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/policy/policy.h"

namespace palimpsest::bench {

struct NamedPolicy {
  std::string name;
  PolicySpec spec;
};

// The layers that sparsity is measured in: four, as in the paper.
std::vector<uint32_t> SparsityLayers(int layers);

// "full bf16", "full fp8", "window", "thinkv k=512", "thinkv k=1024", "thinkv k=2048".
absl::StatusOr<std::vector<NamedPolicy>> FleetPolicies(int layers);

}  // namespace palimpsest::bench
