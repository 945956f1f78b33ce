// SPDX-License-Identifier: Apache-2.0
#include "bench/fleet/policies.h"

#include <iterator>

#include "absl/strings/str_cat.h"
#include "bench/fleet/fleet.h"
#include "common/base/status_macros.h"

namespace palimpsest::bench {

std::vector<uint32_t> SparsityLayers(int layers) {
  constexpr int kSparsityLayers = 4;
  std::vector<uint32_t> chosen;
  for (int i = 0; i < kSparsityLayers; ++i) {
    chosen.push_back(static_cast<uint32_t>((2 * i + 1) * layers / (2 * kSparsityLayers)));
  }
  return chosen;
}

absl::StatusOr<std::vector<NamedPolicy>> FleetPolicies(int layers) {
  std::vector<NamedPolicy> policies;
  KV_ASSIGN_OR_RETURN(const PolicySpec full, DefaultSpec("full"));
  policies.push_back({"full bf16", full});
  policies.back().spec.formats = ClassFormats::Uniform({Format::kBf16, Format::kBf16});
  policies.push_back({"full fp8", full});
  policies.back().spec.formats = ClassFormats::Uniform({Format::kFp8, Format::kFp8});
  KV_ASSIGN_OR_RETURN(const PolicySpec window, DefaultSpec("window"));
  policies.push_back({absl::StrCat("window k=", window.budget_tokens), window});
  for (const uint32_t budget : {512u, 1024u, 2048u}) {
    KV_ASSIGN_OR_RETURN(PolicySpec thinkv, DefaultSpec("thinkv"));
    thinkv.budget_tokens = budget;
    thinkv.sparsity_layers = SparsityLayers(layers);
    thinkv.theta.assign(std::begin(kFleetTheta), std::end(kFleetTheta));
    policies.push_back({absl::StrCat("thinkv k=", budget), thinkv});
  }
  return policies;
}

}  // namespace palimpsest::bench
