// SPDX-License-Identifier: Apache-2.0
#include "common/policy/sequence_state.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/check.h"
#include "common/base/limits.h"

namespace palimpsest {
namespace {

bool IsThought(Thought label) { return Index(label) < kThoughtCount; }

absl::Status SegmentError(size_t index, const Segment& segment, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("segments[", index, "] at position ", segment.first_position, ": ", what));
}

absl::Status ValidateSegment(const Segment& segment, size_t index, uint32_t expected_position) {
  if (segment.first_position != expected_position) {
    return SegmentError(index, segment, absl::StrCat("expected position ", expected_position));
  }
  if (segment.token_count == 0) return SegmentError(index, segment, "token_count is 0");
  // Subtraction, not end_position(): the sum may wrap before it is compared.
  if (segment.token_count > limits::kPositionMax - segment.first_position) {
    return SegmentError(index, segment,
                        absl::StrCat("token_count ", segment.token_count, " ends beyond position ",
                                     limits::kPositionMax));
  }
  if (segment.live_count > segment.token_count) {
    return SegmentError(index, segment,
                        absl::StrCat("live_count ", segment.live_count, " exceeds token_count ",
                                     segment.token_count));
  }
  if (!IsThought(segment.label)) return SegmentError(index, segment, "label is no thought");
  if (segment.pinned && segment.live_count != segment.token_count) {
    return SegmentError(index, segment, "pinned, yet not every token is live");
  }
  if (segment.pinned && segment.end_position() > limits::kPromptTokensMax) {
    return SegmentError(
        index, segment,
        absl::StrCat("pinned tokens exceed the prompt limit of ", limits::kPromptTokensMax));
  }
  return absl::OkStatus();
}

bool Continues(const SequenceState& state, const SealedTokens& sealed) {
  return !state.segments.empty() && !sealed.starts_window &&
         state.segments.back().label == sealed.label &&
         state.segments.back().pinned == sealed.pinned;
}

}  // namespace

uint32_t SequenceState::live_tokens() const {
  uint32_t live = 0;
  for (const Segment& segment : segments) live += segment.pinned ? 0 : segment.live_count;
  return live;
}

uint32_t SequenceState::pinned_tokens() const {
  uint32_t live = 0;
  for (const Segment& segment : segments) live += segment.pinned ? segment.live_count : 0;
  return live;
}

const Segment* FindSegment(const SequenceState& state, uint32_t first_position) {
  const auto found = std::lower_bound(
      state.segments.begin(), state.segments.end(), first_position,
      [](const Segment& s, uint32_t position) { return s.first_position < position; });
  if (found == state.segments.end() || found->first_position != first_position) return nullptr;
  return &*found;
}

void RecordSealed(SequenceState& state, const SealedTokens& sealed) {
  const uint32_t position = state.sealed_tokens();
  KV_CHECK(sealed.token_count > 0 && sealed.token_count <= limits::kPositionMax - position);
  if (Continues(state, sealed)) {
    state.segments.back().token_count += sealed.token_count;
    state.segments.back().live_count += sealed.token_count;
    return;
  }
  state.segments.push_back({.first_position = position,
                            .token_count = sealed.token_count,
                            .live_count = sealed.token_count,
                            .label = sealed.label,
                            .pinned = sealed.pinned});
}

absl::Status RecordAnneal(SequenceState& state, const Anneal& anneal) {
  const Segment* const found = FindSegment(state, anneal.first_position);
  if (found == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("anneal: no segment starts at position ", anneal.first_position));
  }
  if (found->pinned) {
    return absl::FailedPreconditionError(
        absl::StrCat("anneal: the segment at position ", anneal.first_position, " is pinned"));
  }
  Segment& segment = state.segments[found - state.segments.data()];
  segment.live_count = std::min(segment.live_count, anneal.keep);
  segment.demotions = std::max(segment.demotions, anneal.demotions);
  return absl::OkStatus();
}

absl::Status Validate(const SequenceState& state) {
  if (state.segments.size() > limits::kSegmentsPerSequenceMax) {
    return absl::InvalidArgumentError(absl::StrCat("segments: ", state.segments.size(),
                                                   " of them, allowed are at most ",
                                                   limits::kSegmentsPerSequenceMax));
  }
  uint32_t position = 0;
  bool pinned_allowed = true;
  for (size_t i = 0; i < state.segments.size(); ++i) {
    const Segment& segment = state.segments[i];
    if (absl::Status status = ValidateSegment(segment, i, position); !status.ok()) return status;
    if (segment.pinned && !pinned_allowed) {
      return SegmentError(i, segment, "pinned after a segment that is not");
    }
    pinned_allowed = segment.pinned;
    position = segment.end_position();
  }
  return absl::OkStatus();
}

absl::Status Validate(const SequenceState& state, const SealedTokens& sealed) {
  const uint32_t position = state.sealed_tokens();
  const uint32_t room = limits::kPositionMax - std::min(position, limits::kPositionMax);
  if (sealed.token_count == 0 || sealed.token_count > room) {
    return absl::InvalidArgumentError(absl::StrCat("token_count ", sealed.token_count,
                                                   ": expected 1 to ", room, " after position ",
                                                   position));
  }
  if (!IsThought(sealed.label)) {
    return absl::InvalidArgumentError(
        absl::StrCat("label ", Index(sealed.label), ": expected 0 to ", kThoughtCount - 1));
  }
  if (sealed.pinned && !state.segments.empty() && !state.segments.back().pinned) {
    return absl::InvalidArgumentError("pinned: prompt tokens after tokens that are not");
  }
  if (sealed.pinned && position + sealed.token_count > limits::kPromptTokensMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("pinned: the prompt exceeds ", limits::kPromptTokensMax, " tokens"));
  }
  if (!Continues(state, sealed) && state.segments.size() >= limits::kSegmentsPerSequenceMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("segments: a sequence has at most ", limits::kSegmentsPerSequenceMax));
  }
  return absl::OkStatus();
}

}  // namespace palimpsest
