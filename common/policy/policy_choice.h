// SPDX-License-Identifier: Apache-2.0
// What somebody wants of a policy, as far as he says so. Requests, tenants and a worker's settings
// choose in the same words, and what they leave out is filled in one step.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/policy/policy.h"

namespace palimpsest {

// The fields of a PolicySpec; what holds nothing here was not said.
struct PolicyChoice {
  std::string name = {};
  uint32_t budget_tokens = 0;
  uint32_t window_tokens = 0;
  std::vector<uint32_t> retention = {};
  std::optional<ClassFormats> formats = std::nullopt;
  std::vector<uint32_t> sparsity_layers = {};
  std::vector<float> theta = {};
  bool operator==(const PolicyChoice&) const = default;
};

// One that leaves nothing out.
PolicyChoice ChoiceOf(const PolicySpec& spec);

// What `choice` leaves out is as in `otherwise` where it names no policy. Where it names one, it is
// that policy's own (DefaultSpec): what is good for one policy says nothing about another. Checks
// the name only; NotFound lists those there are.
absl::StatusOr<PolicySpec> Filled(const PolicyChoice& choice, const PolicySpec& otherwise);

// "anticipate k=1024 window=64 int4", for people.
std::string Described(const PolicySpec& spec);

}  // namespace palimpsest
