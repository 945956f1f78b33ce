// SPDX-License-Identifier: Apache-2.0
// A policy is a pure function from what was observed to a plan. No device, clock, I/O, lock or
// randomness: the same input gives the same plan on the shard, in the worker's local fallback and
// in a test. Adding one: a new file with a New…Policy() factory and a line in registry.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/base/format.h"
#include "common/base/selector.h"
#include "common/base/thought.h"
#include "common/policy/sequence_state.h"

namespace palimpsest {

// Bounds of the fields of a PolicySpec, checked by NewPolicy.
inline constexpr uint32_t kWindowTokensMin =
    16;  // a group (kernels/layout.h): what is sealed at once
inline constexpr uint32_t kWindowTokensMax = 4096;
inline constexpr uint32_t kRetentionStepsMax = 16;
inline constexpr uint32_t kSparsityLayerMax = 1023;  // a layer's index

// Everything a request may choose about its policy. Checked by NewPolicy.
struct PolicySpec {
  std::string name = "thinkv";
  uint32_t budget_tokens = 1024;  // k: mean live tokens of a lane, prompt and open group apart
  uint32_t window_tokens = 128;   // tau: a refresh every so many tokens; 0: see WindowTokensOf
  std::vector<uint32_t> retention = {64, 32, 16, 8, 4};  // ThinKV's schedule, strictly falling
  ClassFormats formats = ClassFormats::R4E4T2();
  // Calibration: label E below theta[0], R below theta[1], else T. Both empty: one class (R).
  std::vector<uint32_t> sparsity_layers = {};  // L*, ascending
  std::vector<float> theta = {};               // size 0 or 2, ascending, in [0, 1]
  bool operator==(const PolicySpec&) const = default;
};

// The windows that a chain of this policy has: a multiple of 16, as the spec says; where it says 0,
// an eighth of the budget, from 16 to 128. Just before a policy chooses, a chain holds its budget
// and a window, so small budgets want short ones; and a token's share of what choosing costs is
// then the same at all budgets.
uint32_t WindowTokensOf(const PolicySpec& spec);

// What the worker saw at a group boundary.
struct Observation {
  bool refresh = false;                   // a window ended with this group
  absl::Span<const float> sparsity = {};  // at a refresh: one value per spec.sparsity_layers entry
};

struct Plan {
  std::optional<Thought> next_label;  // always at a refresh, never else: the next window's label
  std::vector<Anneal> anneals = {};   // in the order to be applied
  bool empty() const { return !next_label.has_value() && anneals.empty(); }
  bool operator==(const Plan&) const = default;
};

class Policy {
 public:
  virtual ~Policy() = default;

  // Which tokens its anneals keep.
  virtual Selection selection() const = 0;
  // Whether refreshes need attention sparsity from the worker.
  virtual bool wants_sparsity() const = 0;
  // Whether all that follows the prompt is one segment of class R, out of which every anneal
  // chooses, instead of one segment a window.
  virtual bool one_segment() const { return false; }
  // Called at every group boundary, after the group has been recorded in `state`. The tokens to
  // come after a refresh belong to a new segment that `state` does not list yet, so at a refresh
  // every listed segment is an older one; otherwise the last one is still being written, and no
  // plan touches it (but where one_segment()). A plan has at most one anneal a segment, oldest
  // first.
  virtual Plan Decide(const SequenceState& state, const Observation& observation) const = 0;
};

// The policy named by `spec`. InvalidArgument names the field and what is allowed.
absl::StatusOr<std::unique_ptr<const Policy>> NewPolicy(const PolicySpec& spec);

// Names NewPolicy accepts, for --help.
std::vector<std::string> PolicyNames();

// One line about a policy, for --help. NotFound lists the names.
absl::StatusOr<std::string> PolicyDescription(absl::string_view policy_name);

// The formats and budget a policy starts from when the request names none ("full": bf16 and no
// bound on the budget ...). NotFound lists the names.
absl::StatusOr<PolicySpec> DefaultSpec(absl::string_view policy_name);

}  // namespace palimpsest
