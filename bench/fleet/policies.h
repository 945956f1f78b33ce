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

// Those of `names`, or all where it is empty. InvalidArgument lists what there is. None of them
// wants scores of slots, kept queries, a codebook or a residue, which fleets don't have.
absl::StatusOr<std::vector<NamedPolicy>> FleetPolicies(int layers,
                                                       const std::vector<std::string>& names);

}  // namespace palimpsest::bench
