// SPDX-License-Identifier: Apache-2.0
// What evicted tokens leave behind: one more key for attention, of their mean and the weight of all
// of them. The bytes are a backend's own, so it is attention that tells.
#include <bit>
#include <cmath>
#include <vector>

#include "tests/kernels/conformance/backend_conformance.h"

namespace palimpsest {
namespace {

constexpr Thought kR = Thought::kReasoning;
constexpr Thought kT = Thought::kTransition;
constexpr uint32_t kPrompt = 5;  // tokens that no anneal of these tests touches
constexpr PageFormat kNvfp4 = {Format::kNvfp4, Format::kNvfp4};

void WithResidue(BackendConfig& config) { config.shape.residue = true; }

// Down to `keep` of all that follow the prompt.
AnnealOrder KeepOf(const ModelSequence& sequence, uint32_t keep, Selector selector,
                   Thought thought = kR, bool residue = true) {
  return {.thought = thought,
          .first_position = kPrompt,
          .end_position = sequence.next_position(),
          .keep = keep,
          .selection = {.selector = selector,
                        .recent = selector == Selector::kKMeansMedoids ? 0u : 4u,
                        .residue = residue}};
}

// A sequence whose residue matters: keys are alike, so that their mean is far from 0, and queries
// spread their attention.
ModelSequence AlikeSequence(TestDevice* device, PageFormat format, uint32_t open_group,
                            uint64_t seed, Selector selector = Selector::kRandom) {
  ModelSequence sequence(device, ClassFormats::Uniform(format), open_group, seed, selector);
  sequence.DrawAlikeKeys();
  sequence.query_deviation(1.0f);
  return sequence;
}

void AddGroups(ModelSequence* sequence, int groups, Thought thought = kR) {
  for (int i = 0; i < groups; ++i) {
    sequence->Step(kGroupTokens - sequence->open_count());
    sequence->Seal(thought);
  }
}

TEST_P(BackendConformance, EvictedTokensAreAttendedToAsTheirMean) {
  TestDevice device = NewDevice(&WithResidue);
  for (const PageFormat format : {PageFormat{}, PageFormat{Format::kFp8, Format::kBf16}, kNvfp4,
                                  PageFormat{Format::kInt4, Format::kTernary}}) {
    SCOPED_TRACE(testing::Message() << Name(format.k) << "/" << Name(format.v));
    ModelSequence sequence = AlikeSequence(&device, format, 0, 400);
    AddGroups(&sequence, 4);
    for (const uint32_t keep : {40u, 30u, 7u, 20u, 0u}) {  // of 59, 56, 46, 23 and 36
      sequence.Anneal(KeepOf(sequence, keep, Selector::kRandom));
      EXPECT_EQ(sequence.LanesDiffer(kR), keep > 0 && device.shape().lanes() > 1);
      sequence.Step(1);
      sequence.Step(5);
      AddGroups(&sequence, 1);
      if (HasFailure()) return;
    }
    ASSERT_EQ(device.backend().ZeroOpenGroup(0), absl::OkStatus());
  }
}

TEST_P(BackendConformance, OnlyAnnealsThatAreToldToLeaveAResidue) {
  TestDevice device = NewDevice(&WithResidue);
  ModelSequence sequence = AlikeSequence(&device, kNvfp4, 1, 401);
  AddGroups(&sequence, 5);
  sequence.Anneal(KeepOf(sequence, 60, Selector::kRandom, kR, false));
  sequence.Step(1);
  sequence.Anneal(KeepOf(sequence, 50, Selector::kMostRecent));
  sequence.Step(1);
  sequence.Anneal(KeepOf(sequence, 50, Selector::kMostRecent));  // nothing to evict
  sequence.Anneal(KeepOf(sequence, 30, Selector::kMostRecent, kR, false));
  sequence.Anneal(KeepOf(sequence, 10, Selector::kKMeansMedoids, kR, false));
  sequence.Step(1);
}

TEST_P(BackendConformance, SegmentsOfOneCallLeaveTheirTokensInOneResidue) {
  TestDevice device = NewDevice(&WithResidue);
  ModelSequence sequence = AlikeSequence(&device, kNvfp4, 0, 402);
  AddGroups(&sequence, 3);
  AddGroups(&sequence, 3, kT);
  const AnnealOrder orders[] = {KeepOf(sequence, 12, Selector::kRandom),
                                KeepOf(sequence, 17, Selector::kRandom, kT)};
  sequence.AnnealTogether(orders);
  sequence.Step(2);
}

TEST_P(BackendConformance, EachSequenceHasAResidueOfItsOwn) {
  TestDevice device = NewDevice(&WithResidue);
  std::vector<ModelSequence> sequences;
  for (uint32_t i = 0; i < 4; ++i) {
    sequences.push_back(AlikeSequence(&device, i % 2 == 0 ? kNvfp4 : PageFormat{}, i, 403 + i));
    AddGroups(&sequences[i], 3);
    if (i == 1) continue;  // has none
    sequences[i].Anneal(KeepOf(sequences[i], 30 - 8 * i, Selector::kRandom));
  }
  StepTogether(&device, {{&sequences[3], 1}, {&sequences[0], 9}, {&sequences[1], 2}});
  StepTogether(&device, {{&sequences[2], 1}, {&sequences[1], 1}, {&sequences[3], 14}});
}

// Long enough that a backend cuts each head's pages into parts, of which one has the residue.
TEST_P(BackendConformance, AResidueOverALongHistory) {
  TestDevice device = NewDevice(&WithResidue);
  ModelSequence sequence = AlikeSequence(&device, kNvfp4, 0, 407);
  ModelSequence brief = AlikeSequence(&device, kNvfp4, 1, 408);
  sequence.compare_attention(false);
  for (int round = 0; round < 3; ++round) {
    AddGroups(&sequence, 8);
    sequence.Anneal(KeepOf(sequence, 70 * (round + 1), Selector::kRandom));
    if (HasFailure()) return;
  }
  sequence.compare_attention(true);
  sequence.Step(1);
  StepTogether(&device, {{&brief, 2}, {&sequence, 1}});
  sequence.Step(14);
}

TEST_P(BackendConformance, ResiduesOfRotatedKeysMeetRotatedQueries) {
  if (!std::has_single_bit(static_cast<uint32_t>(device().shape().head_dim))) return;
  TestDevice device = NewDevice([](BackendConfig& c) {
    WithResidue(c);
    c.rotate_keys = true;
  });
  ModelSequence sequence = AlikeSequence(&device, {Format::kNvfp4, Format::kTernary}, 0, 409);
  // Some backends round queries to bf16 after their rotation.
  sequence.compare_attention(true, 0.01);
  AddGroups(&sequence, 4);
  sequence.Anneal(KeepOf(sequence, 20, Selector::kRandom));
  sequence.Step(1);
  sequence.Step(3);
}

TEST_P(BackendConformance, WhateverTheScoresWhatGoesIsInTheResidue) {
  TestDevice device = NewDevice([](BackendConfig& c) {
    WithResidue(c);
    c.query_window = 8;
    c.codebook = RandomCodebook(c, 32);
  });
  for (const Selector selector : {Selector::kAnticipated, Selector::kJointScore}) {
    ModelSequence sequence = AlikeSequence(&device, kNvfp4, 2, 410, selector);
    AddGroups(&sequence, 4);
    for (const uint32_t keep : {40u, 30u, 3u}) {  // the last of the newest alone
      sequence.Anneal(KeepOf(sequence, keep, selector));
      sequence.Step(2);
      AddGroups(&sequence, 1);
      if (HasFailure()) return;
    }
    ASSERT_EQ(device.backend().ZeroOpenGroup(2), absl::OkStatus());
  }
}

// Whose shares then add up to less than 1. The scores lie before the residue in the open group.
TEST_P(BackendConformance, AResidueTakesItsShareOfTheAttentionReceived) {
  TestDevice device = NewDevice([](BackendConfig& c) {
    WithResidue(c);
    c.shape.slot_scores = true;
  });
  ModelSequence sequence = AlikeSequence(&device, kNvfp4, 3, 412, Selector::kAttentionReceived);
  AddGroups(&sequence, 2);
  for (int round = 0; round < 3; ++round) {
    while (sequence.open_count() < kGroupTokens) sequence.Step(1);
    sequence.Seal(kR);
    sequence.Anneal(KeepOf(sequence, 18, Selector::kAttentionReceived));
    if (HasFailure()) return;
  }
  sequence.Step(1);
}

TEST_P(BackendConformance, AZeroedOpenGroupHasNoResidue) {
  TestDevice device = NewDevice(&WithResidue);
  ModelSequence sequence = AlikeSequence(&device, kNvfp4, 1, 413);
  ModelSequence neighbour = AlikeSequence(&device, kNvfp4, 2, 414);
  for (ModelSequence* each : {&sequence, &neighbour}) {
    AddGroups(each, 3);
    each->Anneal(KeepOf(*each, 15, Selector::kRandom));
  }
  ASSERT_EQ(device.backend().ZeroOpenGroup(1), absl::OkStatus());
  sequence.ForgetOpenGroup();
  StepTogether(&device, {{&sequence, 1}, {&neighbour, 1}});
}

TEST_P(BackendConformance, RefusesResiduesThatCannotBe) {
  TestDevice with = NewDevice(&WithResidue);
  const auto code = [](TestDevice* device, Selector selector, bool grouped) {
    ModelSequence sequence(device, ClassFormats::R4E4T2(), 0, 415);
    sequence.Step(kGroupTokens);
    sequence.Seal(kR);
    SequenceView view = sequence.View();
    if (!grouped) view.open_group = kNoOpenGroup;
    const AnnealOrder order = KeepOf(sequence, 3, selector);
    const std::vector<uint8_t> before = device->ReadPages();
    const absl::Status status = device->backend().Anneal({&view, 1}, {&order, 1});
    EXPECT_EQ(device->ReadPages(), before);
    sequence.Step(1);
    return status.code();
  };
  EXPECT_EQ(code(&device(), Selector::kMostRecent, true), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(code(&with, Selector::kKMeansMedoids, true), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(&with, Selector::kMostRecent, false), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace palimpsest
