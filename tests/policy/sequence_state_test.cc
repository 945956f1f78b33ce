// SPDX-License-Identifier: Apache-2.0
#include "common/policy/sequence_state.h"

#include <functional>
#include <string>
#include <vector>

#include "common/base/limits.h"
#include "common/policy/windows.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace palimpsest {
namespace {

using testing::HasSubstr;

SequenceState PromptAndTwoWindows() {
  SequenceState state;
  RecordSealed(state, {.token_count = 20, .pinned = true});
  for (int group = 0; group < 16; ++group) {
    RecordSealed(state, {.token_count = 16, .starts_window = group % 8 == 0});
  }
  return state;
}

TEST(SequenceState, OneWindowIsOneSegmentAlsoWhenTheLabelStays) {
  const SequenceState state = PromptAndTwoWindows();
  ASSERT_EQ(state.segments.size(), 3u);
  EXPECT_EQ(state.segments[1].first_position, 20u);
  EXPECT_EQ(state.segments[1].token_count, 128u);
  EXPECT_EQ(state.segments[2].first_position, 148u);
  EXPECT_EQ(state.sealed_tokens(), 276u);
}

TEST(SequenceState, PromptIsApartFromLiveTokens) {
  const SequenceState state = PromptAndTwoWindows();
  EXPECT_EQ(state.pinned_tokens(), 20u);
  EXPECT_EQ(state.live_tokens(), 256u);
}

TEST(Windows, EndWithTheGroupThatMakesThemLongEnoughAndBeginSegments) {
  for (const bool one_segment : {false, true}) {
    Windows windows({.prompt_tokens = 20, .window_tokens = 32, .one_segment = one_segment});
    std::vector<uint32_t> starts, ends;
    for (uint32_t sealed = 16; sealed <= 160; sealed += 16) {
      if (windows.starts()) starts.push_back(sealed - 16);
      const bool due = windows.EndsAt(sealed);
      EXPECT_EQ(windows.Seal({.token_count = 16, .pinned = sealed == 16}, sealed), due);
      if (due) ends.push_back(sealed);
    }
    // The first group with a generated token is the second.
    const std::vector<uint32_t> expected = {0, 16, 64, 96, 128};
    EXPECT_EQ(starts, one_segment ? std::vector<uint32_t>({0, 16}) : expected);
    EXPECT_EQ(ends, std::vector<uint32_t>({64, 96, 128, 160}));
  }
}

TEST(SequenceState, NewLabelOpensASegmentInsideTheWindow) {
  SequenceState state = PromptAndTwoWindows();
  RecordSealed(state, {.token_count = 16, .label = Thought::kExecution});
  ASSERT_EQ(state.segments.size(), 4u);
  EXPECT_EQ(state.segments[3].label, Thought::kExecution);
}

TEST(SequenceState, EmptyStateHasNoTokensAndIsValid) {
  const SequenceState state;
  EXPECT_EQ(state.sealed_tokens(), 0u);
  EXPECT_EQ(state.live_tokens(), 0u);
  EXPECT_TRUE(Validate(state).ok());
}

TEST(RecordAnneal, TwiceIsOnce) {
  SequenceState state = PromptAndTwoWindows();
  const Anneal anneal = {.first_position = 20, .keep = 64, .demotions = 1};
  ASSERT_TRUE(RecordAnneal(state, anneal).ok());
  const SequenceState once = state;
  ASSERT_TRUE(RecordAnneal(state, anneal).ok());
  EXPECT_EQ(state, once);
  EXPECT_EQ(state.segments[1].live_count, 64u);
  EXPECT_EQ(state.segments[1].demotions, 1);
}

TEST(RecordAnneal, OlderOrderArrivingLateRaisesNothing) {
  SequenceState state = PromptAndTwoWindows();
  ASSERT_TRUE(RecordAnneal(state, {.first_position = 20, .keep = 16, .demotions = 3}).ok());
  const SequenceState before = state;
  ASSERT_TRUE(RecordAnneal(state, {.first_position = 20, .keep = 64, .demotions = 1}).ok());
  EXPECT_EQ(state, before);
}

TEST(RecordAnneal, RefusesThePromptAndUnknownSegments) {
  SequenceState state = PromptAndTwoWindows();
  const SequenceState before = state;
  EXPECT_EQ(RecordAnneal(state, {.first_position = 0}).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(RecordAnneal(state, {.first_position = 21}).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(RecordAnneal(state, {.first_position = 276}).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(state, before);
}

TEST(RecordAnneal, SegmentWithNoLiveTokenStaysListed) {
  SequenceState state = PromptAndTwoWindows();
  ASSERT_TRUE(RecordAnneal(state, {.first_position = 20, .keep = 0, .demotions = 5}).ok());
  EXPECT_EQ(state.segments.size(), 3u);
  EXPECT_TRUE(Validate(state).ok());
}

struct Hostile {
  const char* name;
  std::function<void(SequenceState&)> spoil;
  const char* says;
};

class HostileSnapshot : public testing::TestWithParam<Hostile> {};

TEST_P(HostileSnapshot, IsRefusedWithItsPlace) {
  SequenceState state = PromptAndTwoWindows();
  ASSERT_TRUE(Validate(state).ok());
  GetParam().spoil(state);
  const absl::Status status = Validate(state);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().says));
}

INSTANTIATE_TEST_SUITE_P(
    All, HostileSnapshot,
    testing::Values(
        Hostile{"Gap", [](SequenceState& s) { ++s.segments[2].first_position; },
                "segments[2] at position 149: expected position 148"},
        Hostile{"Overlap", [](SequenceState& s) { --s.segments[2].first_position; },
                "segments[2] at position 147: expected position 148"},
        Hostile{"StartNotAtZero", [](SequenceState& s) { s.segments.erase(s.segments.begin()); },
                "segments[0] at position 20: expected position 0"},
        Hostile{"Reordered", [](SequenceState& s) { std::swap(s.segments[1], s.segments[2]); },
                "segments[1] at position 148: expected position 20"},
        Hostile{"EmptySegment",
                [](SequenceState& s) { s.segments[2].token_count = s.segments[2].live_count = 0; },
                "segments[2] at position 148: token_count is 0"},
        Hostile{"LiveOverCovered", [](SequenceState& s) { s.segments[1].live_count = 129; },
                "segments[1] at position 20: live_count 129 exceeds token_count 128"},
        Hostile{"WrappingCount", [](SequenceState& s) { s.segments[2].token_count = ~0u; },
                "segments[2] at position 148: token_count 4294967295 ends beyond"},
        Hostile{"BeyondTheLastPosition",
                [](SequenceState& s) { s.segments[2].token_count = limits::kPositionMax - 147; },
                "ends beyond position 16777216"},
        Hostile{"NoThought",
                [](SequenceState& s) { s.segments[1].label = static_cast<Thought>(3); },
                "label is no thought"},
        Hostile{"PromptWithHoles", [](SequenceState& s) { s.segments[0].live_count = 19; },
                "pinned, yet not every token is live"},
        Hostile{"PinnedLater", [](SequenceState& s) { s.segments[2].pinned = true; },
                "pinned after a segment that is not"},
        Hostile{"LongPrompt",
                [](SequenceState& s) {
                  const uint32_t count = limits::kPromptTokensMax + 1;
                  s.segments = {{.token_count = count, .live_count = count, .pinned = true}};
                },
                "pinned tokens exceed the prompt limit"},
        Hostile{"TooMany",
                [](SequenceState& s) {
                  s.segments.clear();
                  for (uint32_t i = 0; i <= limits::kSegmentsPerSequenceMax; ++i) {
                    s.segments.push_back({.first_position = i, .token_count = 1});
                  }
                },
                "segments: 16385 of them, allowed are at most 16384"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(ValidateSealed, RefusesWhatCannotBeRecorded) {
  const SequenceState state = PromptAndTwoWindows();
  EXPECT_TRUE(Validate(state, {.token_count = 16}).ok());
  EXPECT_FALSE(Validate(state, {.token_count = 0}).ok());
  EXPECT_FALSE(Validate(state, {.token_count = limits::kPositionMax}).ok());
  EXPECT_FALSE(Validate(state, {.token_count = ~0u}).ok());
  EXPECT_FALSE(Validate(state, {.token_count = 16, .label = static_cast<Thought>(9)}).ok());
  EXPECT_FALSE(Validate(state, {.token_count = 16, .pinned = true}).ok());
  const SealedTokens prompt = {.token_count = limits::kPromptTokensMax, .pinned = true};
  EXPECT_TRUE(Validate(SequenceState{}, prompt).ok());
  EXPECT_FALSE(
      Validate(SequenceState{{{.token_count = 1, .live_count = 1, .pinned = true}}}, prompt).ok());
}

TEST(ValidateSealed, CountsTheSegmentsASequenceMayHave) {
  SequenceState state;
  for (uint32_t i = 0; i < limits::kSegmentsPerSequenceMax; ++i) {
    RecordSealed(state, {.token_count = 16, .starts_window = true});
  }
  EXPECT_TRUE(Validate(state).ok());
  EXPECT_TRUE(Validate(state, {.token_count = 16}).ok()) << "it extends the last one";
  EXPECT_FALSE(Validate(state, {.token_count = 16, .starts_window = true}).ok());
}

}  // namespace
}  // namespace palimpsest
