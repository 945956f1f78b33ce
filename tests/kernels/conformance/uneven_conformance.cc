// SPDX-License-Identifier: Apache-2.0
// Sequences whose lanes hold different numbers of tokens (kernels/uneven_lanes.h), over windows as
// an engine has them: fill the open group, seal, anneal each lane to what it keeps.
#include <algorithm>
#include <bit>
#include <numeric>
#include <vector>

#include "tests/kernels/conformance/backend_conformance.h"

namespace palimpsest {
namespace {

constexpr Thought kR = Thought::kReasoning;
constexpr uint32_t kPrompt = 37;  // two full groups and a tail

void WithUnevenLanes(BackendConfig& config) {
  config.shape.residue = true;
  config.codebook = WithShares(*RandomCodebook(config, 16), SpreadShares(config.shape.lanes()));
}

constexpr Selection kAnticipates = {
    .selector = Selector::kAnticipated, .recent = 4, .residue = true, .recent_beyond = 20};
constexpr Selection kDrawsLots = {
    .selector = Selector::kRandom, .recent = 3, .residue = true, .recent_beyond = 30};
constexpr Selection kNewest = {.selector = Selector::kMostRecent, .residue = true};

// What each lane keeps, besides the prompt, by its share.
std::vector<uint32_t> KeepsOf(const TestDevice& device, uint32_t mean) {
  std::vector<uint32_t> keeps;
  for (const float share : device.config().codebook->lane_shares) {
    keeps.push_back(static_cast<uint32_t>(static_cast<float>(mean) * share));
  }
  return keeps;
}

// The blocks that lanes then need, behind those of the prompt's full groups.
std::vector<uint32_t> CapacitiesFor(const std::vector<uint32_t>& keeps, uint32_t prompt,
                                    uint32_t window = kGroupTokens) {
  std::vector<uint32_t> capacities;
  for (const uint32_t keep : keeps) {
    capacities.push_back((prompt % kGroupTokens + keep + window + kSlotsPerPage - 1) /
                         kSlotsPerPage);
  }
  return capacities;
}

void Prefill(ModelSequence* sequence, uint32_t prompt, const std::vector<uint32_t>& capacities) {
  for (uint32_t group = 0; group < prompt / kGroupTokens; ++group) {
    sequence->Step(kGroupTokens);
    sequence->Seal(kR);
  }
  sequence->MakeUneven(capacities);
  if (prompt % kGroupTokens > 0) sequence->Step(prompt % kGroupTokens);
}

// What follows the prompt, down to keeps[lane] in each. Borrows `keeps`.
AnnealOrder KeepEach(const ModelSequence& sequence, uint32_t prompt,
                     const std::vector<uint32_t>& keeps, const Selection& selection) {
  const uint32_t sum = std::accumulate(keeps.begin(), keeps.end(), 0u);
  return {.thought = kR,
          .first_position = prompt,
          .end_position = sequence.next_position(),
          .keep = sum / static_cast<uint32_t>(keeps.size()),
          .lane_keeps = keeps,
          .selection = selection};
}

// Whether each lane has the prompt and as much of the rest as it may keep.
void ExpectKept(const ModelSequence& sequence, uint32_t prompt,
                const std::vector<uint32_t>& keeps) {
  const uint32_t sealed = sequence.next_position() - sequence.open_count();
  std::vector<uint32_t> expected;
  for (const uint32_t keep : keeps) {
    expected.push_back(prompt + std::min(keep, sealed - prompt));
  }
  EXPECT_EQ(sequence.LiveCounts(kR), expected);
}

TEST_P(BackendConformance, UnevenLanesKeepAsManyTokensAsEachIsGiven) {
  struct Case {
    PageFormat format;
    Selection selection;
  };
  const Case cases[] = {{{Format::kNvfp4, Format::kTernary}, kAnticipates},
                        {{Format::kInt4, Format::kInt4}, kAnticipates},
                        {{Format::kInt4, Format::kInt4}, kNewest},
                        {{Format::kFp8, Format::kFp8}, kDrawsLots},
                        {{Format::kBf16, Format::kBf16}, kAnticipates}};
  TestDevice device = NewDevice(&WithUnevenLanes);
  const std::vector<uint32_t> keeps = KeepsOf(device, 27);
  for (const Case& c : cases) {
    SCOPED_TRACE(testing::Message() << Name(c.format.k) << "/" << Name(c.format.v));
    ModelSequence sequence(&device, ClassFormats::Uniform(c.format), 0, 500);
    sequence.query_deviation(1.0f);
    sequence.DrawAlikeKeys();  // so that residues matter
    Prefill(&sequence, kPrompt, CapacitiesFor(keeps, kPrompt));
    for (int window = 0; window < 7; ++window) {
      sequence.Step(1);
      sequence.Step(kGroupTokens - sequence.open_count());
      sequence.Seal(kR);
      if (window % 3 == 2) sequence.Step(2);  // open when the anneal comes
      sequence.Anneal(KeepEach(sequence, kPrompt, keeps, c.selection));
      ExpectKept(sequence, kPrompt, keeps);
      if (HasFailure()) return;
    }
    ASSERT_EQ(device.backend().ZeroOpenGroup(0), absl::OkStatus());
  }
}

TEST_P(BackendConformance, UnevenLanesOfRotatedKeys) {
  if (!std::has_single_bit(static_cast<uint32_t>(device().shape().head_dim))) return;
  TestDevice device = NewDevice([](BackendConfig& c) {
    WithUnevenLanes(c);
    c.rotate_keys = true;
  });
  const std::vector<uint32_t> keeps = KeepsOf(device, 20);
  ModelSequence sequence(&device, ClassFormats::Uniform({Format::kInt4, Format::kInt4}), 1, 501);
  sequence.query_deviation(1.0f);
  // Some backends round queries to bf16 after their rotation.
  sequence.compare_attention(true, 0.01);
  Prefill(&sequence, kPrompt, CapacitiesFor(keeps, kPrompt));
  for (int window = 0; window < 4; ++window) {
    sequence.Step(kGroupTokens - sequence.open_count());
    sequence.Seal(kR);
    sequence.Anneal(KeepEach(sequence, kPrompt, keeps, kAnticipates));
    ExpectKept(sequence, kPrompt, keeps);
    if (HasFailure()) return;
  }
  sequence.Step(1);
}

// More lanes than a warp has threads.
TEST_P(BackendConformance, UnevenLanesOfManyLayers) {
  TestDevice device = NewDevice([](BackendConfig& c) {
    c.shape.layers = 20;
    WithUnevenLanes(c);
  });
  const std::vector<uint32_t> keeps = KeepsOf(device, 14);
  ModelSequence sequence(&device, ClassFormats::Uniform({Format::kInt4, Format::kInt4}), 0, 540);
  Prefill(&sequence, kPrompt, CapacitiesFor(keeps, kPrompt));
  for (int window = 0; window < 3; ++window) {
    sequence.compare_attention(false);
    sequence.Step(kGroupTokens - 1 - sequence.open_count());
    sequence.compare_attention(true);
    sequence.Step(1);
    sequence.Seal(kR);
    sequence.Anneal(KeepEach(sequence, kPrompt, keeps, window == 1 ? kAnticipates : kDrawsLots));
    ExpectKept(sequence, kPrompt, keeps);
    if (HasFailure()) return;
  }
  sequence.Step(1);
}

TEST_P(BackendConformance, UnevenAndEvenSequencesShareSteps) {
  TestDevice device = NewDevice(&WithUnevenLanes);
  const std::vector<uint32_t> few = KeepsOf(device, 11), more = KeepsOf(device, 30);
  const ClassFormats int4 = ClassFormats::Uniform({Format::kInt4, Format::kInt4});
  ModelSequence first(&device, int4, 0, 502), second(&device, int4, 1, 503),
      even(&device, ClassFormats::R4E4T2(), 2, 504), young(&device, int4, 3, 505);
  Prefill(&first, kPrompt, CapacitiesFor(few, kPrompt));
  Prefill(&second, 16, CapacitiesFor(more, 16));
  even.Step(5);
  for (int window = 0; window < 5; ++window) {
    StepTogether(&device, {{&second, 1}, {&even, 1}, {&first, 1}});
    StepTogether(&device, {{&even, kGroupTokens - even.open_count()},
                           {&first, kGroupTokens - first.open_count()},
                           {&second, kGroupTokens - second.open_count()},
                           {&young, window % 2 == 0 ? 3u : 0u}});
    SealTogether(&device, {&even, &first, &second}, kR);
    AnnealSequences(&device, {&second, &even, &first},
                    {{.sequence = 1,
                      .thought = kR,
                      .end_position = even.next_position(),
                      .keep = 23,
                      .selection = {.selector = window % 2 == 0 ? Selector::kAnticipated
                                                                : Selector::kKMeansMedoids}},
                     [&] {
                       AnnealOrder order = KeepEach(first, kPrompt, few, kAnticipates);
                       order.sequence = 2;
                       return order;
                     }(),
                     KeepEach(second, 16, more, window % 2 == 0 ? kAnticipates : kDrawsLots)});
    ExpectKept(first, kPrompt, few);
    ExpectKept(second, 16, more);
    if (HasFailure()) return;
  }
  StepTogether(&device, {{&first, 7}, {&even, 1}, {&young, 1}, {&second, 1}});
}

// Long enough that a backend cuts the largest lane's blocks into parts, beside lanes of one.
TEST_P(BackendConformance, UnevenLanesOfManyBlocksAndOfOne) {
  TestDevice device = NewDevice(&WithUnevenLanes);
  const std::vector<uint32_t> ranks = RankLanes(device.config().codebook->lane_shares);
  std::vector<uint32_t> keeps(ranks.size());
  for (size_t i = 0; i < ranks.size(); ++i) {
    keeps[i] = ranks[i] == 0 ? 1050 : ranks[i] == 1 ? 210 : ranks[i] == 2 ? 16 : 0;
  }
  if (ranks.size() == 2) keeps[ranks[0] == 1 ? 0 : 1] = 0;
  ModelSequence sequence(&device, ClassFormats::Uniform({Format::kInt4, Format::kTernary}), 0, 506);
  ModelSequence brief(&device, ClassFormats::R4E4T2(), 1, 507);
  sequence.compare_attention(false);
  sequence.query_deviation(0.7f);
  Prefill(&sequence, 16, CapacitiesFor(keeps, 16));
  for (int window = 0; window < 70; ++window) {
    sequence.Step(kGroupTokens);
    sequence.Seal(kR);
    sequence.Anneal(KeepEach(sequence, 16, keeps, kDrawsLots));
    if (HasFailure()) return;
  }
  ExpectKept(sequence, 16, keeps);
  sequence.compare_attention(true);
  sequence.Step(1);
  StepTogether(&device, {{&brief, 2}, {&sequence, 1}});
  sequence.Step(14);
  sequence.Seal(kR);
  sequence.Anneal(KeepEach(sequence, 16, keeps, kNewest));
  sequence.Step(1);
}

// The last round that has begun is there in part; and behind the last there are blocks that nobody
// has.
TEST_P(BackendConformance, UnevenLanesWithMorePagesThanTheyNeed) {
  TestDevice device = NewDevice(&WithUnevenLanes);
  const std::vector<uint32_t> keeps = KeepsOf(device, 24);
  const std::vector<uint32_t> capacities = CapacitiesFor(keeps, kPrompt);
  uint32_t blocks = 0;
  for (const uint32_t capacity : capacities) blocks += capacity;
  const auto lanes = static_cast<uint32_t>(device.shape().lanes());
  for (uint32_t pages = 2; pages <= blocks / lanes + 2; ++pages) {
    ModelSequence sequence(&device, ClassFormats::Uniform({Format::kFp8, Format::kFp8}), 0, 508);
    Prefill(&sequence, kPrompt, capacities);
    for (uint32_t i = 0; i < pages; ++i) sequence.AddPage(kR);
    for (int window = 0; window < 3; ++window) {
      sequence.Step(kGroupTokens - sequence.open_count());
      sequence.Seal(kR);
      sequence.Anneal(KeepEach(sequence, kPrompt, keeps, kDrawsLots));
      if (HasFailure()) return;
    }
    ASSERT_EQ(device.backend().ZeroOpenGroup(0), absl::OkStatus());
  }
}

TEST_P(BackendConformance, UnevenLanesBehindNoPromptAndInSmallGroups) {
  TestDevice device = NewDevice(&WithUnevenLanes);
  const std::vector<uint32_t> keeps = KeepsOf(device, 9);
  const ClassFormats formats = ClassFormats::Uniform({Format::kNvfp4, Format::kNvfp4});
  for (const uint32_t prompt : {0u, 3u, 15u}) {  // no even page
    ModelSequence sequence(&device, formats, 2, 509 + prompt);
    Prefill(&sequence, prompt, CapacitiesFor(keeps, prompt));
    for (const uint32_t count : {7u, 5u, 12u, 1u, 16u, 9u}) {
      if (sequence.open_count() + count <= kGroupTokens) sequence.Step(count);
      sequence.Seal(kR);
      if (sequence.next_position() < prompt) continue;
      sequence.Anneal(KeepEach(sequence, prompt, keeps, kAnticipates));
      ExpectKept(sequence, prompt, keeps);
      if (HasFailure()) return;
    }
    sequence.Step(1);
    ASSERT_EQ(device.backend().ZeroOpenGroup(2), absl::OkStatus());
  }
}

TEST_P(BackendConformance, UnevenLanesThatAllKeepTheSame) {
  TestDevice device = NewDevice(&WithUnevenLanes);
  const std::vector<uint32_t> same(static_cast<size_t>(device.shape().lanes()), 20);
  ModelSequence sequence(&device, ClassFormats::Uniform({Format::kInt4, Format::kInt4}), 0, 530);
  Prefill(&sequence, kPrompt, CapacitiesFor(same, kPrompt));
  for (int window = 0; window < 4; ++window) {
    sequence.Step(kGroupTokens - sequence.open_count());
    sequence.Seal(kR);
    sequence.Anneal({.thought = kR,
                     .first_position = kPrompt,
                     .end_position = sequence.next_position(),
                     .keep = 20,
                     .selection = kAnticipates});
    ExpectKept(sequence, kPrompt, same);
    if (HasFailure()) return;
  }
  sequence.Anneal({.thought = Thought::kTransition, .end_position = 60, .selection = kNewest});
  EXPECT_EQ(sequence.LiveCount(kR), kPrompt + 20);
}

TEST_P(BackendConformance, UnevenSealWithTooFewDeadSlotsOfOneLaneChangesNothing) {
  TestDevice device = NewDevice(&WithUnevenLanes);
  std::vector<uint32_t> capacities = RankLanes(device.config().codebook->lane_shares);
  for (uint32_t& capacity : capacities) capacity = capacity + 1 == capacities.size() ? 1 : 2;
  const ClassFormats formats = ClassFormats::Uniform({Format::kInt4, Format::kInt4});
  ModelSequence fits(&device, formats, 0, 531), lacks(&device, formats, 1, 532);
  for (ModelSequence* sequence : {&fits, &lacks}) {
    Prefill(sequence, 16, capacities);
    sequence->Step(16);
    sequence->Seal(kR);
    sequence->AddPage(kR);
  }
  const std::vector<uint32_t> none(capacities.size(), 0);
  fits.Anneal(KeepEach(fits, 16, none, kNewest));
  fits.Step(5);
  lacks.Step(1);
  const std::vector<SequenceView> views = {fits.View(), lacks.View()};
  const SealOrder orders[] = {{.sequence = 0, .thought = kR}, {.sequence = 1, .thought = kR}};
  const std::vector<uint8_t> before = device.ReadPages();
  absl::Status status = device.backend().Seal(views, orders);
  if (status.ok()) status = device.backend().Synchronize();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_EQ(device.ReadPages(), before);
  lacks.Anneal(KeepEach(lacks, 16, none, kNewest));
  SealTogether(&device, {&fits, &lacks}, kR);
  StepTogether(&device, {{&lacks, 1}, {&fits, 1}});
}

}  // namespace
}  // namespace palimpsest
