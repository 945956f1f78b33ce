// SPDX-License-Identifier: Apache-2.0
// Selectors by which every lane chooses for itself, and what becomes of a cache whose lanes hold
// different tokens.
#include <bit>
#include <functional>
#include <vector>

#include "tests/kernels/conformance/backend_conformance.h"

namespace palimpsest {
namespace {

constexpr Thought kR = Thought::kReasoning;
constexpr Thought kT = Thought::kTransition;
constexpr uint32_t kPrompt = 21;  // tokens that no anneal of these tests touches

void AddGroups(ModelSequence* sequence, int groups, Thought thought = kR) {
  for (int i = 0; i < groups; ++i) {
    sequence->Step(kGroupTokens - sequence->open_count());
    sequence->Seal(thought);
  }
}

// Down to `keep` of all that follow the prompt.
AnnealOrder KeepOf(const ModelSequence& sequence, uint32_t keep, Selection selection) {
  return {.thought = kR,
          .first_position = kPrompt,
          .end_position = sequence.next_position(),
          .keep = keep,
          .selection = selection};
}

bool PowerOfTwo(const CacheShape& shape) {
  return std::has_single_bit(static_cast<uint32_t>(shape.head_dim));
}

TEST_P(BackendConformance, TheNewestTokensStayWhateverTheirScore) {
  for (const Selector selector : {Selector::kMostRecent, Selector::kRandom}) {
    ModelSequence sequence = NewSequence(ClassFormats::R4E4T2(), 0, 200);
    AddGroups(&sequence, 7);
    uint32_t keep = 64;
    for (const uint32_t recent : {0u, 1u, 9u, 20u, 12u, 1000u}) {
      sequence.Anneal(KeepOf(sequence, keep, {selector, recent}));
      EXPECT_EQ(sequence.LiveCount(kR), kPrompt + keep);
      keep -= 10;
      if (HasFailure()) return;
    }
    sequence.Anneal(KeepOf(sequence, 0, {selector, 3}));
    EXPECT_EQ(sequence.LiveCount(kR), kPrompt);
    sequence.Step(2);
  }
}

TEST_P(BackendConformance, LanesThatHoldDifferentTokensWorkAsBefore) {
  const bool one_lane = device().shape().lanes() == 1;
  ModelSequence sequence = NewSequence(ClassFormats::R4E4T2(), 1, 201);
  ModelSequence other = NewSequence(ClassFormats::R4E4T2(), 2, 202);
  AddGroups(&sequence, 5);
  AddGroups(&sequence, 1, kT);
  for (const uint32_t keep : {40u, 30u, 35u}) {
    sequence.Anneal(KeepOf(sequence, keep, {Selector::kRandom, 4}));
    EXPECT_EQ(sequence.LanesDiffer(kR), !one_lane);
    sequence.Step(1);
    StepTogether(&device(), {{&other, 3}, {&sequence, 5}});
    for (int layer = 0; layer < device().shape().layers; ++layer) {
      const auto [measured, exact] = sequence.Sparsity(layer);
      EXPECT_NEAR(measured, exact, 1.0 / 60 + 1e-6);
    }
    const size_t pages = sequence.View().pages[Index(kR)].size();
    AddGroups(&sequence, 1);  // into holes that lie elsewhere in every lane
    EXPECT_EQ(sequence.View().pages[Index(kR)].size(), pages);
    if (other.open_count() > 12) other.Seal(kR);
    if (HasFailure()) return;
  }
  sequence.Anneal(KeepOf(sequence, 20, {Selector::kMostRecent}));
  sequence.Step(1);
}

TEST_P(BackendConformance, KMeansChoosesHeadByHeadWhereHeadsHoldDifferentTokens) {
  ModelSequence sequence = NewSequence(ClassFormats::R4E4T2(), 0, 203);
  AddGroups(&sequence, 4);
  sequence.Anneal(KeepOf(sequence, 30, {Selector::kRandom}));
  sequence.Anneal(KeepOf(sequence, 11, {Selector::kKMeansMedoids}));
  EXPECT_EQ(sequence.LiveCount(kR), kPrompt + 11);
  sequence.Step(1);
}

TEST_P(BackendConformance, JointScoresWeighAttentionAgainstLikeness) {
  TestDevice device = NewDevice([](BackendConfig& c) { c.query_window = 8; });
  for (const PageFormat format : {PageFormat{}, PageFormat{Format::kInt4, Format::kTernary}}) {
    ModelSequence sequence(&device, ClassFormats::Uniform(format), 3, 204, Selector::kJointScore);
    sequence.DrawAlikeKeys();
    sequence.compare_attention(false);
    AddGroups(&sequence, 3);
    for (int round = 0; round < 4; ++round) {
      // The newest queries are those of one step, of several, or of some and a part of another.
      sequence.Step(static_cast<uint32_t>(3 + 4 * round));
      while (sequence.open_count() < kGroupTokens) sequence.Step(1);
      sequence.Seal(kR);
      AddGroups(&sequence, round % 2);
      sequence.Anneal(KeepOf(sequence, 30, {Selector::kJointScore, 8}));
      EXPECT_EQ(sequence.LiveCount(kR), kPrompt + 30);
      if (HasFailure()) return;
    }
    sequence.Anneal(KeepOf(sequence, 9, {Selector::kJointScore, 0}));
    sequence.Anneal(KeepOf(sequence, 4, {Selector::kJointScore, 8}));  // the newest, unasked
    sequence.compare_attention(true);
    sequence.Step(1);
  }
}

TEST_P(BackendConformance, FewerQueriesThanTheWindowHoldsAreUsedAlone) {
  TestDevice device = NewDevice([](BackendConfig& c) { c.query_window = kQueryWindowMax; });
  ModelSequence sequence(&device, ClassFormats::R4E4T2(), 0, 205, Selector::kJointScore);
  sequence.Step(11);
  sequence.Step(1);
  sequence.Seal(kR);
  sequence.Anneal(
      {.thought = kR, .end_position = 12, .keep = 6, .selection = {Selector::kJointScore, 2}});
  EXPECT_EQ(sequence.LiveCount(kR), 6u);
}

TEST_P(BackendConformance, EachSequenceKeepsItsOwnQueries) {
  TestDevice device = NewDevice([](BackendConfig& c) { c.query_window = 5; });
  std::vector<ModelSequence> sequences;
  for (uint32_t i = 0; i < 3; ++i) {
    // The last one keeps none.
    sequences.emplace_back(&device, ClassFormats::R4E4T2(), i, 206 + i,
                           i == 2 ? Selector::kMostRecent : Selector::kJointScore);
  }
  for (int group = 0; group < 3; ++group) {
    StepTogether(&device, {{&sequences[1], 13}, {&sequences[0], 15}, {&sequences[2], 2}});
    StepTogether(&device, {{&sequences[0], 1}, {&sequences[2], 1}, {&sequences[1], 3}});
    sequences[0].Seal(kR);
    sequences[1].Seal(kR);
  }
  for (int i = 0; i < 2; ++i) {
    sequences[i].Anneal(KeepOf(sequences[i], 10, {Selector::kJointScore, 3}));
  }
}

TEST_P(BackendConformance, AZeroedOpenGroupForgetsItsQueries) {
  TestDevice device = NewDevice([](BackendConfig& c) { c.query_window = 8; });
  ModelSequence sequence(&device, ClassFormats::R4E4T2(), 0, 209, Selector::kJointScore);
  sequence.DrawAlikeKeys();
  AddGroups(&sequence, 4);
  ASSERT_EQ(device.backend().ZeroOpenGroup(0), absl::OkStatus());
  sequence.ForgetOpenGroup();  // queries of zeros attend to all alike
  sequence.Anneal(KeepOf(sequence, 20, {Selector::kJointScore, 4}));
}

TEST_P(BackendConformance, AnticipatedQueriesKeepWhatAnyOfThemWants) {
  TestDevice device = NewDevice([](BackendConfig& c) { c.codebook = RandomCodebook(c, 48); });
  for (const PageFormat format : {PageFormat{}, PageFormat{Format::kNvfp4, Format::kInt4}}) {
    ModelSequence sequence(&device, ClassFormats::Uniform(format), 0, 210, Selector::kAnticipated);
    sequence.compare_attention(false);
    AddGroups(&sequence, 1, kT);  // of another class: not attended to
    AddGroups(&sequence, 5);
    for (const uint32_t keep : {50u, 40u, 30u}) {
      sequence.Anneal(KeepOf(sequence, keep, {Selector::kAnticipated, 16}));
      EXPECT_EQ(sequence.LanesDiffer(kR), device.shape().lanes() > 1);
      if (HasFailure()) return;
      AddGroups(&sequence, 2);
    }
    sequence.compare_attention(true);
    sequence.Step(3);
  }
}

TEST_P(BackendConformance, ScoresOfRotatedKeysAreThoseOfRotatedQueries) {
  if (!PowerOfTwo(device().shape())) return;  // refused: see rotation_conformance.cc
  TestDevice device = NewDevice([](BackendConfig& c) {
    c.rotate_keys = true;
    c.query_window = 8;
    c.codebook = RandomCodebook(c, 16);
  });
  ModelSequence sequence(&device, ClassFormats::Uniform({Format::kNvfp4, Format::kTernary}), 0, 211,
                         Selector::kJointScore);
  AddGroups(&sequence, 6);
  sequence.Anneal(KeepOf(sequence, 50, {Selector::kJointScore, 8}));
  sequence.Anneal(KeepOf(sequence, 30, {Selector::kAnticipated, 16}));
  EXPECT_EQ(sequence.LiveCount(kR), kPrompt + 30);
}

TEST_P(BackendConformance, RefusesSelectorsThatItWasNotMadeFor) {
  ModelSequence sequence = NewSequence(ClassFormats::R4E4T2(), 0, 212);
  AddGroups(&sequence, 1);
  const SequenceView view = sequence.View();
  const std::vector<uint8_t> before = device().ReadPages();
  const auto code = [&](Selection selection) {
    const AnnealOrder order{.thought = kR, .end_position = 16, .keep = 3, .selection = selection};
    return backend().Anneal({&view, 1}, {&order, 1}).code();
  };
  for (const Selector selector :
       {Selector::kAttentionReceived, Selector::kJointScore, Selector::kAnticipated}) {
    EXPECT_EQ(code({selector}), absl::StatusCode::kFailedPrecondition);
  }
  EXPECT_EQ(code({Selector::kValueAttention}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({Selector::kKMeansMedoids, 1}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(device().ReadPages(), before);
}

TEST_P(BackendConformance, RefusesSelectorsWhoseDataASequenceLacks) {
  TestDevice device = NewDevice([](BackendConfig& c) {
    c.shape.slot_scores = true;
    c.query_window = 8;
  });
  ModelSequence sequence(&device, ClassFormats::R4E4T2(), 0, 213);
  AddGroups(&sequence, 1);
  const auto code = [&](Selector selector, const SequenceView& view) {
    const AnnealOrder order{.thought = kR, .end_position = 16, .keep = 3, .selection = {selector}};
    return device.backend().Anneal({&view, 1}, {&order, 1}).code();
  };
  constexpr auto kExpected = absl::StatusCode::kInvalidArgument;
  const SequenceView plain = sequence.View();
  EXPECT_EQ(code(Selector::kAttentionReceived, plain), kExpected);
  EXPECT_EQ(code(Selector::kJointScore, plain), kExpected);
  SequenceView norms = plain;
  norms.slot_score = SlotScore::kValueNorm;
  EXPECT_EQ(code(Selector::kAttentionReceived, norms), kExpected);
  SequenceView groupless = plain;
  groupless.keeps_queries = true;
  groupless.open_group = kNoOpenGroup;
  EXPECT_EQ(code(Selector::kJointScore, groupless), kExpected);
}

TEST_P(BackendConformance, RefusesCodebooksOfOtherModels) {
  BackendConfig config = device().config();
  const auto refused = [&](const char* what, const std::function<void(QueryCodebook&)>& spoil) {
    QueryCodebook book = *RandomCodebook(config, 16);
    spoil(book);
    config.codebook = std::make_shared<const QueryCodebook>(book);
    EXPECT_EQ(adapter_->NewBackend(config).status().code(), absl::StatusCode::kInvalidArgument)
        << what;
  };
  refused("layers", [](auto& b) { ++b.layers; });
  refused("heads", [](auto& b) { ++b.query_heads; });
  refused("head_dim", [](auto& b) { b.head_dim += 16; });
  refused("no query", [](auto& b) { b.queries = 0; });
  refused("odd number of queries", [](auto& b) { b.queries = 15; });
  refused("data missing", [](auto& b) { b.data.pop_back(); });
  refused("frequencies missing", [](auto& b) { b.inverse_frequencies.clear(); });
  config.codebook = nullptr;
  config.query_window = kQueryWindowMax + 1;
  EXPECT_EQ(adapter_->NewBackend(config).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace palimpsest
