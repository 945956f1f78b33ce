// SPDX-License-Identifier: Apache-2.0
#include "services/decode/engine/pressure.h"

#include <gtest/gtest.h>

namespace palimpsest {
namespace {

Segment MakeSegment(uint32_t first, uint32_t live, Thought label, bool pinned = false) {
  return {.first_position = first,
          .token_count = 128,
          .live_count = live,
          .label = label,
          .demotions = 0,
          .pinned = pinned};
}

TEST(PressureTest, TheLabelsOwnDeadSlotsComeFirst) {
  const auto relief = PlanRelief({}, Thought::kTransition, 16, {16, 100, 100});
  ASSERT_TRUE(relief.has_value());
  EXPECT_EQ(relief->seal_as, Thought::kTransition);
  EXPECT_TRUE(relief->anneals.empty());
}

TEST(PressureTest, AnotherClassWithRoomIsTakenTheWidestFirst) {
  const auto relief = PlanRelief({}, Thought::kTransition, 16, {3, 100, 20});
  ASSERT_TRUE(relief.has_value());
  EXPECT_EQ(relief->seal_as, Thought::kReasoning);
  EXPECT_TRUE(relief->anneals.empty());
}

TEST(PressureTest, TheOldestSegmentsOfTheLeastImportantClassAreEmptiedUntilTheGroupFits) {
  const SequenceState state{
      {MakeSegment(0, 128, Thought::kReasoning, /*pinned=*/true),
       MakeSegment(128, 64, Thought::kReasoning), MakeSegment(256, 4, Thought::kTransition),
       MakeSegment(384, 10, Thought::kTransition), MakeSegment(512, 64, Thought::kTransition)}};
  const auto relief = PlanRelief(state, Thought::kReasoning, 16, {2, 0, 0});
  ASSERT_TRUE(relief.has_value());
  EXPECT_EQ(relief->seal_as, Thought::kTransition);
  EXPECT_EQ(relief->anneals,
            (std::vector<Anneal>{{.first_position = 256, .keep = 0, .demotions = 1},
                                 {.first_position = 384, .keep = 0, .demotions = 1}}));
}

TEST(PressureTest, APromptAloneHasNothingToGive) {
  const SequenceState state{{MakeSegment(0, 128, Thought::kReasoning, /*pinned=*/true)}};
  EXPECT_FALSE(PlanRelief(state, Thought::kReasoning, 16, {0, 0, 0}).has_value());
}

}  // namespace
}  // namespace palimpsest
