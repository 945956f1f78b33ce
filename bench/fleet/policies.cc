// SPDX-License-Identifier: Apache-2.0
#include "bench/fleet/policies.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
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

namespace {

absl::StatusOr<std::vector<NamedPolicy>> AllPolicies(int layers) {
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

}  // namespace

absl::StatusOr<std::vector<NamedPolicy>> FleetPolicies(int layers,
                                                       const std::vector<std::string>& names) {
  KV_ASSIGN_OR_RETURN(const std::vector<NamedPolicy> all, AllPolicies(layers));
  if (names.empty()) return all;
  std::vector<NamedPolicy> chosen;
  for (const std::string& name : names) {
    const auto found = std::find_if(all.begin(), all.end(),
                                    [&](const NamedPolicy& policy) { return policy.name == name; });
    if (found == all.end()) {
      const auto append_name = [](std::string* out, const NamedPolicy& policy) {
        absl::StrAppend(out, "'", policy.name, "'");
      };
      return absl::InvalidArgumentError(absl::StrCat("--policy: '", name, "' is none of ",
                                                     absl::StrJoin(all, ", ", append_name)));
    }
    chosen.push_back(*found);
  }
  return chosen;
}

}  // namespace palimpsest::bench
