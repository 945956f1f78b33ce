// SPDX-License-Identifier: Apache-2.0
// ThinKV's planner on cases small enough, or regular enough, to be worked out by hand.
#include <chrono>
#include <iostream>

#include "common/policy/policy.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace palimpsest {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr float kLooksT[] = {0.9f};
constexpr float kLooksR[] = {0.5f};
constexpr float kLooksE[] = {0.1f};

PolicySpec Calibrated(uint32_t budget_tokens) {
  return {.budget_tokens = budget_tokens, .sparsity_layers = {0}, .theta = {0.25f, 0.75f}};
}

SequenceState Segments(std::initializer_list<Segment> segments) {
  SequenceState state;
  uint32_t position = 0;
  for (Segment segment : segments) {
    segment.first_position = position;
    if (segment.token_count == 0) segment.token_count = 128;
    position += segment.token_count;
    state.segments.push_back(segment);
  }
  return state;
}

Segment Full(Thought label) { return {.live_count = 128, .label = label}; }
Segment Floor(Thought label) { return {.live_count = 4, .label = label, .demotions = 5}; }
const Segment kPrompt = {.token_count = 128, .live_count = 128, .pinned = true};

// Applies the policy to windows of the given length under one sparsity.
SequenceState DecodeUnder(const Policy& policy, uint32_t windows,
                          absl::Span<const float> sparsity) {
  SequenceState state;
  Thought label = Thought::kReasoning;
  for (uint32_t group = 0; group < windows * 8; ++group) {
    RecordSealed(state, {.token_count = 16, .label = label, .starts_window = group % 8 == 0});
    const bool refresh = group % 8 == 7;
    const Plan plan = policy.Decide(
        state, {.refresh = refresh, .sparsity = refresh ? sparsity : absl::Span<const float>{}});
    for (const Anneal& anneal : plan.anneals) EXPECT_TRUE(RecordAnneal(state, anneal).ok());
    label = plan.next_label.value_or(label);
  }
  return state;
}

TEST(ThinKv, CaseOneWalksASegmentDownTheScheduleAndStopsAtTheFloor) {
  const auto policy = *NewPolicy(Calibrated(1024));
  SequenceState state = Segments({kPrompt, Full(Thought::kReasoning)});
  for (const uint32_t keep : {64u, 32u, 16u, 8u, 4u}) {
    const Plan plan = policy->Decide(state, {.refresh = true, .sparsity = kLooksT});
    ASSERT_EQ(plan.anneals.size(), 1u);
    EXPECT_EQ(plan.anneals[0].first_position, 128u);
    EXPECT_EQ(plan.anneals[0].keep, keep);
    ASSERT_TRUE(RecordAnneal(state, plan.anneals[0]).ok());
  }
  EXPECT_EQ(state.segments[1].demotions, 5);
  EXPECT_THAT(policy->Decide(state, {.refresh = true, .sparsity = kLooksT}).anneals, IsEmpty());
}

TEST(ThinKv, OnlyTFiresCaseOne) {
  const auto policy = *NewPolicy(Calibrated(1024));
  const SequenceState state = Segments({Full(Thought::kReasoning), Full(Thought::kTransition)});
  EXPECT_EQ(policy->Decide(state, {.refresh = true, .sparsity = kLooksE}),
            Plan{.next_label = Thought::kExecution});
  EXPECT_EQ(policy->Decide(state, {.refresh = true, .sparsity = kLooksR}),
            Plan{.next_label = Thought::kReasoning});
  EXPECT_TRUE(policy->Decide(state, {.sparsity = kLooksT}).empty()) << "no refresh, no label";
}

TEST(ThinKv, CaseOneDemotesEveryThoughtOneStepButThePrompt) {
  const auto policy = *NewPolicy(Calibrated(1024));
  const SequenceState state = Segments({kPrompt,
                                        Full(Thought::kReasoning),
                                        Floor(Thought::kReasoning),
                                        Full(Thought::kTransition),
                                        {.token_count = 16, .live_count = 16}});
  const Plan plan = policy->Decide(state, {.refresh = true, .sparsity = kLooksT});
  EXPECT_THAT(plan.anneals,
              ElementsAre(Anneal{.first_position = 128, .keep = 64, .demotions = 1},
                          Anneal{.first_position = 384, .keep = 64, .demotions = 1},
                          // Shorter than the step: nothing goes, but the step is taken.
                          Anneal{.first_position = 512, .keep = 16, .demotions = 1}));
}

TEST(ThinKv, CaseTwoTakesTheLeastImportantThenTheOldest) {
  const auto policy = *NewPolicy(Calibrated(256));
  const SequenceState state =
      Segments({Full(Thought::kReasoning), Full(Thought::kExecution), Full(Thought::kTransition),
                Full(Thought::kTransition), Full(Thought::kReasoning)});
  // 640 live. T: -124 -124 = 392. E: -124 = 268. Then the oldest R: one step, 204.
  EXPECT_THAT(policy->Decide(state, {}).anneals,
              ElementsAre(Anneal{.first_position = 0, .keep = 64, .demotions = 1},
                          Anneal{.first_position = 128, .keep = 4, .demotions = 5},
                          Anneal{.first_position = 256, .keep = 4, .demotions = 5},
                          Anneal{.first_position = 384, .keep = 4, .demotions = 5}));
}

TEST(ThinKv, CaseTwoStopsAsSoonAsItFits) {
  const auto policy = *NewPolicy(Calibrated(256));
  const SequenceState state = Segments({Full(Thought::kTransition),
                                        Full(Thought::kTransition),
                                        {.token_count = 16, .live_count = 16}});
  EXPECT_THAT(policy->Decide(state, {}).anneals,
              ElementsAre(Anneal{.first_position = 0, .keep = 64, .demotions = 1}));
}

TEST(ThinKv, ExactlyTheBudgetFits) {
  const auto policy = *NewPolicy(Calibrated(256));
  const SequenceState state =
      Segments({kPrompt, Full(Thought::kTransition), Full(Thought::kTransition)});
  EXPECT_TRUE(policy->Decide(state, {}).empty());
}

TEST(ThinKv, BothCasesAtOnceGiveOneAnnealASegment) {
  const auto policy = *NewPolicy(Calibrated(100));
  const SequenceState state = Segments({Full(Thought::kReasoning), Full(Thought::kReasoning)});
  // Case 1: 64 + 64. Case 2: the oldest to 32, which is 96.
  EXPECT_THAT(policy->Decide(state, {.refresh = true, .sparsity = kLooksT}).anneals,
              ElementsAre(Anneal{.first_position = 0, .keep = 32, .demotions = 2},
                          Anneal{.first_position = 128, .keep = 64, .demotions = 1}));
}

TEST(ThinKv, SegmentBeingWrittenIsTouchedOnlyOnceItIsOlder) {
  const auto policy = *NewPolicy(Calibrated(64));
  const SequenceState state = Segments({Full(Thought::kTransition)});
  EXPECT_TRUE(policy->Decide(state, {}).empty()) << "over k, but it is being written";
  EXPECT_THAT(policy->Decide(state, {.refresh = true, .sparsity = kLooksR}).anneals,
              ElementsAre(Anneal{.first_position = 0, .keep = 64, .demotions = 1}));
}

TEST(ThinKv, AtTheFloorTheOldestTGoThenTheOldestEAndRStays) {
  const SequenceState state = Segments({Floor(Thought::kReasoning),
                                        Floor(Thought::kExecution),
                                        Floor(Thought::kTransition),
                                        Floor(Thought::kTransition),
                                        {.token_count = 16, .live_count = 16}});
  const Anneal first_t = {.first_position = 256, .keep = 0, .demotions = 5};
  const Anneal second_t = {.first_position = 384, .keep = 0, .demotions = 5};
  const Anneal first_e = {.first_position = 128, .keep = 0, .demotions = 5};
  // 32 live.
  EXPECT_THAT((*NewPolicy(Calibrated(28)))->Decide(state, {}).anneals, ElementsAre(first_t));
  EXPECT_THAT((*NewPolicy(Calibrated(27)))->Decide(state, {}).anneals,
              ElementsAre(first_t, second_t));
  EXPECT_THAT((*NewPolicy(Calibrated(16)))->Decide(state, {}).anneals,
              ElementsAre(first_e, first_t, second_t))
      << "20 live stay over k = 16: R is not dropped";
}

TEST(ThinKv, NothingIsDroppedWhileARSegmentIsAboveTheFloor) {
  const auto policy = *NewPolicy(Calibrated(64));
  const SequenceState state = Segments({Full(Thought::kReasoning),
                                        Floor(Thought::kTransition),
                                        {.token_count = 16, .live_count = 16}});
  // 148 live: R goes to 64 and 32, which is 52.
  EXPECT_THAT(policy->Decide(state, {}).anneals,
              ElementsAre(Anneal{.first_position = 0, .keep = 32, .demotions = 2}));
}

TEST(ThinKv, DroppedSegmentIsNotAnnealedAgain) {
  const auto policy = *NewPolicy(Calibrated(16));
  const SequenceState state =
      Segments({{.live_count = 0, .label = Thought::kTransition, .demotions = 2},
                Floor(Thought::kReasoning),
                Full(Thought::kReasoning)});
  EXPECT_THAT(policy->Decide(state, {}).anneals, IsEmpty());
}

TEST(ThinKv, SnapshotAboveTheFloorWithEveryDemotionSpentIsStillLowered) {
  const auto policy = *NewPolicy(Calibrated(16));
  const SequenceState state =
      Segments({{.live_count = 100, .demotions = 255}, Full(Thought::kReasoning)});
  EXPECT_THAT(policy->Decide(state, {}).anneals,
              ElementsAre(Anneal{.first_position = 0, .keep = 4, .demotions = 255}));
}

// 32,768 tokens are 256 segments; at the floor of 4 they hold exactly k = 1024.
TEST(ThinKv, PapersArithmeticFillsTheBudgetExactlyAt32768Tokens) {
  const auto policy = *NewPolicy(Calibrated(1024));
  SequenceState state = DecodeUnder(*policy, 256, kLooksR);
  ASSERT_EQ(state.sealed_tokens(), 32768u);
  ASSERT_EQ(state.segments.size(), 256u);
  EXPECT_EQ(state.live_tokens(), 1024u);
  for (const Segment& segment : state.segments) EXPECT_EQ(segment.live_count, 4u);

  // One group on, the floor alone is over k, and R is not dropped: the budget is soft.
  RecordSealed(state, {.token_count = 16, .starts_window = true});
  EXPECT_TRUE(policy->Decide(state, {}).empty());
  EXPECT_EQ(state.live_tokens(), 1040u);
}

// Twice that length, all T but the first window: the budget holds, because old T segments go.
// Before the last group of the last window 112 of its tokens were live and not to be touched, which
// left room for (1024 - 112) / 4 = 228 older segments at the floor: the R one and the newest 227 T.
// The last group then brings T again: case 1 takes the last window from 128 to 64, and all fits.
TEST(ThinKv, PapersArithmeticWithTransitionsStaysInTheBudgetByDropping) {
  const auto policy = *NewPolicy(Calibrated(1024));
  const SequenceState state = DecodeUnder(*policy, 512, kLooksT);
  EXPECT_EQ(state.live_tokens(), 228u * 4 + 64);
  EXPECT_EQ(state.segments[511].live_count, 64u);
  for (size_t i = 0; i < 511; ++i) {
    EXPECT_EQ(state.segments[i].live_count, i == 0 || i >= 511 - 227 ? 4u : 0u) << i;
  }
}

// Not a benchmark, but a guard: Decide is on the worker's path when the store is gone.
TEST(ThinKv, DecidesAboutTwoHundredFiftySixSegmentsInMicroseconds) {
  const auto policy = *NewPolicy(Calibrated(1024));
  SequenceState state;
  for (int i = 0; i < 256; ++i) {
    RecordSealed(
        state, {.token_count = 128, .label = kThoughts[i % kThoughtCount], .starts_window = true});
  }
  for (const bool refresh : {false, true}) {
    const Observation observation = {.refresh = refresh, .sparsity = kLooksT};
    constexpr int kRounds = 2000;
    size_t anneals = 0;
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kRounds; ++i) anneals += policy->Decide(state, observation).anneals.size();
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
    EXPECT_GE(anneals, 255u * kRounds) << "the worst case: every segment is annealed";
    std::cout << "[ MEASURED ] Decide, 256 segments, " << (refresh ? "case 1 and 2" : "case 2")
              << ": " << took.count() / kRounds << " us\n";
    EXPECT_LT(took.count() / kRounds, 1000.0) << "even under a sanitizer on a busy machine";
  }
}

}  // namespace
}  // namespace palimpsest
