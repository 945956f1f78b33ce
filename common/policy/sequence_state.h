// SPDX-License-Identifier: Apache-2.0
// What a policy knows of one sequence: its segments, oldest first. A plain value, kept in step on
// both sides of the control plane by the same functions below. The worker's copy is the
// truth; a shard's copy is soft and is rebuilt from a snapshot.
//
// Positions count every token of the sequence, prompt included. Only sealed tokens are recorded:
// the open group (at most 16 tokens) is in no segment yet.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "common/base/thought.h"

namespace palimpsest {

// A run of tokens with one label, written in one page class. At most a window (tau) long, but for
// the prompt. `live_count` is the same in every lane (layer and KV head), or where lanes share a
// budget unevenly their mean, rounded up.
struct Segment {
  uint32_t first_position = 0;  // identifies the segment within its sequence
  uint32_t token_count = 0;     // positions covered, live or not
  uint32_t live_count = 0;
  Thought label = Thought::kReasoning;
  uint8_t demotions = 0;  // how often it was lowered by the retention schedule
  bool pinned = false;    // the prompt: never annealed

  uint32_t end_position() const { return first_position + token_count; }
  bool operator==(const Segment&) const = default;
};

struct SequenceState {
  std::vector<Segment> segments;

  uint32_t sealed_tokens() const { return segments.empty() ? 0 : segments.back().end_position(); }
  // Live sealed tokens of a lane; the prompt (pinned) apart, since it is not in the budget.
  uint32_t live_tokens() const;
  uint32_t pinned_tokens() const;
  bool operator==(const SequenceState&) const = default;
};

// The segment that starts at `first_position`; null where none does.
const Segment* FindSegment(const SequenceState& state, uint32_t first_position);

// One sealing, as a worker reports it: `token_count` more tokens under `label`.
struct SealedTokens {
  uint32_t token_count = 0;
  Thought label = Thought::kReasoning;
  bool pinned = false;         // prompt tokens
  bool starts_window = false;  // the first tokens after a refresh
  bool operator==(const SealedTokens&) const = default;
};

// One order of a plan: lower the segment that starts at `first_position` to `keep` live tokens.
struct Anneal {
  uint32_t first_position = 0;
  uint32_t keep = 0;
  uint8_t demotions = 0;  // the segment's count of demotions after this one
  bool operator==(const Anneal&) const = default;
};

// Extends the newest segment, or opens one when the window, the label or pinnedness changes.
// REQUIRES: Validate(state, sealed) is OK; a breach aborts, so check first what a peer sent.
void RecordSealed(SequenceState& state, const SealedTokens& sealed);

// Applies an anneal. Idempotent: a segment with `keep` or fewer live tokens keeps its count, and
// demotions never fall. NotFound when there is no such segment, FailedPrecondition when it is
// pinned. A segment left with no live token stays listed: positions stay contiguous, and an anneal
// that arrives twice still finds it.
absl::Status RecordAnneal(SequenceState& state, const Anneal& anneal);

// Checks what a peer sent: contiguous, live <= covered, within limits. InvalidArgument says where.
absl::Status Validate(const SequenceState& state);

// Checks that a sealing a peer reports can be recorded on a valid state: at least one token, the
// prompt first, within limits. InvalidArgument says which field.
absl::Status Validate(const SequenceState& state, const SealedTokens& sealed);

}  // namespace palimpsest
