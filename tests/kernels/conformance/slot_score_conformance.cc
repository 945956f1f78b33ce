// SPDX-License-Identifier: Apache-2.0
// Slots that carry a score: what Attend adds to them, what Seal moves into pages, and the tokens
// that go by them. ModelSequence compares every score of a live slot wherever it compares pages.
#include <algorithm>
#include <functional>
#include <vector>

#include "tests/kernels/conformance/backend_conformance.h"

namespace palimpsest {
namespace {

constexpr Thought kR = Thought::kReasoning;
constexpr Thought kT = Thought::kTransition;

void WithScores(BackendConfig& config) { config.shape.slot_scores = true; }

// A prompt that is read in groups, sealed.
void Prefill(ModelSequence* sequence, int groups) {
  for (int i = 0; i < groups; ++i) {
    sequence->Step(kGroupTokens);
    sequence->Seal(kR);
  }
}

// Tokens one by one up to a full group, sealed.
void DecodeGroup(ModelSequence* sequence, Thought thought = kR) {
  while (sequence->open_count() < kGroupTokens) sequence->Step(1);
  sequence->Seal(thought);
}

TEST_P(BackendConformance, AttentionReceivedIsSummedOverStepsAndMovesWithItsToken) {
  TestDevice device = NewDevice(&WithScores);
  for (const ClassFormats& formats : {ClassFormats::Uniform({}), ClassFormats::R4E4T2()}) {
    ModelSequence sequence(&device, formats, 0, 300, Selector::kAttentionReceived);
    sequence.query_deviation(0.7f);
    Prefill(&sequence, 1);
    DecodeGroup(&sequence);
    DecodeGroup(&sequence, kT);
    for (const uint32_t keep : {12u, 20u, 17u}) {
      DecodeGroup(&sequence);
      sequence.Anneal({.thought = kR,
                       .first_position = 9,
                       .end_position = sequence.next_position(),
                       .keep = keep,
                       .selection = {Selector::kAttentionReceived, keep / 2}});
      EXPECT_EQ(sequence.LiveCount(kR), 9 + keep);
      if (HasFailure()) return;
    }
    EXPECT_EQ(sequence.LanesDiffer(kR), device.shape().lanes() > 1);
    DecodeGroup(&sequence);  // into holes, whose old scores are overwritten
  }
}

// Also over a history that a backend cuts into parts.
TEST_P(BackendConformance, AttentionReceivedOverALongHistory) {
  TestDevice device = NewDevice(&WithScores);
  ModelSequence sequence(&device, ClassFormats::R4E4T2(), 0, 301, Selector::kAttentionReceived);
  sequence.query_deviation(0.7f);
  sequence.compare_attention(false);
  for (int group = 0; group < 40; ++group) {
    sequence.Step(kGroupTokens);
    sequence.Seal(kThoughts[(group / 3 + group) % 3]);
  }
  sequence.compare_attention(true);
  sequence.Step(1);
  sequence.Step(1);
  sequence.ComparePages();
}

TEST_P(BackendConformance, StepsOfSeveralRowsLeaveScoresAlone) {
  TestDevice device = NewDevice(&WithScores);
  ModelSequence sequence(&device, ClassFormats::R4E4T2(), 0, 302, Selector::kAttentionReceived);
  DecodeGroup(&sequence);
  const std::vector<uint8_t> before = device.ReadPages();
  sequence.Step(2);
  sequence.Step(13);
  EXPECT_EQ(device.ReadPages(), before);
  sequence.Step(1);  // sees the open tokens too, whose scores were 0 until now
  sequence.Seal(kR);
}

TEST_P(BackendConformance, OfEqualScoresTheEarlierPositionStays) {
  TestDevice device = NewDevice(&WithScores);
  ModelSequence sequence(&device, ClassFormats::R4E4T2(), 0, 303, Selector::kAttentionReceived);
  Prefill(&sequence, 2);  // nothing was ever added
  sequence.Anneal({.thought = kR,
                   .first_position = 4,
                   .end_position = 32,
                   .keep = 5,
                   .selection = {Selector::kAttentionReceived, 2}});
  EXPECT_EQ(sequence.Positions(kR, 0, 0), (std::vector<uint32_t>{0, 1, 2, 3, 4, 5, 6, 30, 31}));
}

TEST_P(BackendConformance, OpenTokensStartWithoutScores) {
  TestDevice device = NewDevice(&WithScores);
  ModelSequence first(&device, ClassFormats::R4E4T2(), 0, 304, Selector::kAttentionReceived);
  DecodeGroup(&first);  // leaves its scores behind in the open group
  ModelSequence second(&device, ClassFormats::R4E4T2(), 0, 305, Selector::kAttentionReceived);
  second.Step(9);
  second.Step(1);
  second.Seal(kR);
}

TEST_P(BackendConformance, AZeroedOpenGroupHasNoScores) {
  TestDevice device = NewDevice(&WithScores);
  ModelSequence sequence(&device, ClassFormats::R4E4T2(), 1, 306, Selector::kAttentionReceived);
  for (int i = 0; i < 5; ++i) sequence.Step(1);
  ASSERT_EQ(device.backend().ZeroOpenGroup(1), absl::OkStatus());
  sequence.ForgetOpenGroup();
  sequence.Seal(kR);
}

TEST_P(BackendConformance, SealWritesTheNormOfTheValueAsStored) {
  TestDevice device = NewDevice(&WithScores);
  for (const Format format : kFormats) {
    ModelSequence sequence(&device, ClassFormats::Uniform({Format::kNvfp4, format}), 0, 307,
                           Selector::kValueAttention);
    Prefill(&sequence, 1);
    sequence.Step(5);
    sequence.Seal(kR);
  }
}

TEST_P(BackendConformance, EvictsATokenAStepSoThatNoPageIsEverAdded) {
  TestDevice device = NewDevice(&WithScores);
  ModelSequence sequence(&device, ClassFormats::R4E4T2(), 0, 308, Selector::kValueAttention);
  sequence.query_deviation(0.7f);
  constexpr uint32_t kPrompt = 11;
  Prefill(&sequence, 4);
  const size_t pages = sequence.View().pages[Index(kR)].size();
  sequence.EvictFrom(kPrompt);
  for (int group = 0; group < 3; ++group) {
    for (uint32_t i = 1; i <= kGroupTokens; ++i) {
      sequence.Step(1);
      EXPECT_EQ(sequence.LiveCount(kR), 64 - i);
      if (HasFailure()) return;
    }
    sequence.Seal(kR);  // in place, where the evicted ones were
    EXPECT_EQ(sequence.View().pages[Index(kR)].size(), pages);
  }
  // The prompt is no candidate.
  const std::vector<uint32_t> left = sequence.Positions(kR, 0, 0);
  for (uint32_t position = 0; position < kPrompt; ++position) {
    EXPECT_EQ(left[position], position);
  }
  sequence.EvictFrom(kNoEviction);
  sequence.Step(1);
  EXPECT_EQ(sequence.LiveCount(kR), 64u);
}

TEST_P(BackendConformance, EvictsFromThePagesOfEveryClass) {
  TestDevice device = NewDevice(&WithScores);
  ModelSequence sequence(&device, ClassFormats::R4E4T2(), 0, 309, Selector::kValueAttention);
  sequence.query_deviation(0.3f);
  Prefill(&sequence, 1);
  for (const Thought thought : {kT, Thought::kExecution, kR}) DecodeGroup(&sequence, thought);
  sequence.EvictFrom(16);
  for (int i = 0; i < 15; ++i) sequence.Step(1);
  EXPECT_EQ(sequence.Positions(kR, 0, 0)[15], 15u);
}

TEST_P(BackendConformance, OfEquallyWorthlessTokensTheEarliestIsEvicted) {
  TestDevice device = NewDevice(&WithScores);
  ModelSequence sequence(&device, ClassFormats::Uniform({}), 0, 310, Selector::kValueAttention);
  sequence.value_deviation(0.0f);  // so every score is 0
  Prefill(&sequence, 2);
  sequence.EvictFrom(3);
  sequence.Step(1);
  sequence.Step(1);
  for (int layer = 0; layer < device.shape().layers; ++layer) {
    const std::vector<uint32_t> left = sequence.Positions(kR, layer, 0);
    EXPECT_EQ(std::vector<uint32_t>(left.begin(), left.begin() + 5),
              (std::vector<uint32_t>{0, 1, 2, 5, 6}));
  }
}

TEST_P(BackendConformance, SequencesOfAStepCarryWhatEachOfThemWants) {
  TestDevice device = NewDevice(&WithScores);
  const auto make = [&](uint32_t group, Selector selector) {
    ModelSequence sequence(&device, ClassFormats::R4E4T2(), group, 311 + group, selector);
    sequence.query_deviation(0.7f);
    return sequence;
  };
  ModelSequence received = make(0, Selector::kAttentionReceived);
  ModelSequence evicting = make(1, Selector::kValueAttention);
  ModelSequence plain = make(2, Selector::kKMeansMedoids);
  ModelSequence reading = make(3, Selector::kAttentionReceived);
  for (ModelSequence* sequence : {&received, &evicting, &plain}) Prefill(sequence, 2);
  evicting.EvictFrom(5);
  for (int i = 0; i < 3; ++i) {
    StepTogether(&device, {{&evicting, 1}, {&reading, 4}, {&received, 1}, {&plain, 1}});
    StepTogether(&device, {{&plain, 1}, {&received, 1}, {&evicting, 1}});
    if (HasFailure()) return;
  }
  EXPECT_EQ(evicting.LiveCount(kR), 32u - 6u);
  for (ModelSequence* sequence : {&received, &evicting, &plain, &reading}) sequence->Seal(kR);
  plain.Anneal({.thought = kR, .end_position = 32, .keep = 7});
  plain.Step(1);
}

TEST_P(BackendConformance, RefusesScoresThatItWasNotMadeFor) {
  ModelSequence sequence = NewSequence(ClassFormats::R4E4T2(), 0, 320);
  Prefill(&sequence, 1);
  const auto refused = [&](Backend& backend, const char* what, uint32_t rows,
                           const std::function<void(SequenceView&)>& spoil) {
    SequenceView view = sequence.View();
    spoil(view);
    const StepRows row{.count = rows};
    EXPECT_EQ(backend.BeginStep({&view, 1}, {&row, 1}).code(), absl::StatusCode::kInvalidArgument)
        << what;
  };
  const auto received = [](auto& v) { v.slot_score = SlotScore::kAttentionReceived; };
  refused(backend(), "scores", 1, received);
  refused(backend(), "queries", 1, [](auto& v) { v.keeps_queries = true; });
  refused(backend(), "eviction", 1, [](auto& v) { v.evict_from = 0; });
  TestDevice device = NewDevice(&WithScores);
  refused(device.backend(), "eviction without norms", 1, [&](auto& v) {
    received(v);
    v.evict_from = 0;
  });
  refused(device.backend(), "eviction by two rows", 2, [](auto& v) {
    v.slot_score = SlotScore::kValueNorm;
    v.evict_from = 0;
  });
  refused(device.backend(), "unknown score", 1,
          [](auto& v) { v.slot_score = static_cast<SlotScore>(3); });
}

}  // namespace
}  // namespace palimpsest
