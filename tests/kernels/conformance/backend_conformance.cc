// SPDX-License-Identifier: Apache-2.0
#include "tests/kernels/conformance/backend_conformance.h"

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

namespace palimpsest {
namespace {

constexpr Thought kT = Thought::kTransition;
constexpr Thought kE = Thought::kExecution;
constexpr Thought kR = Thought::kReasoning;

// Steps of random sizes until the open group is full.
void FillOpenGroup(ModelSequence* sequence, Bf16Gaussian* random) {
  while (sequence->open_count() < kGroupTokens) {
    const uint64_t room = kGroupTokens - sequence->open_count();
    sequence->Step(static_cast<uint32_t>(1 + random->Below(room)));
  }
}

TEST_P(BackendConformance, AttendsOverEveryPairOfFormats) {
  for (const Format k : kFormats) {
    for (const Format v : kFormats) {
      SCOPED_TRACE(testing::Message() << Name(k) << "/" << Name(v));
      ModelSequence sequence = NewSequence(ClassFormats::Uniform({k, v}), 0, 1);
      sequence.Step(16);
      sequence.Seal(kR);
      sequence.Step(5);
      ASSERT_FALSE(HasFailure());
    }
  }
}

TEST_P(BackendConformance, AttendsOverClassesOfDifferentFormatsAtOnce) {
  ModelSequence sequence = NewSequence(ClassFormats::R4E4T2(), 1, 2);
  for (const Thought thought : {kR, kE, kT, kR}) {
    sequence.Step(16);
    sequence.Seal(thought);
  }
  sequence.Step(1);
  sequence.Step(3);
}

TEST_P(BackendConformance, AStepOfOneTokenAttendsToItself) {
  ModelSequence sequence = NewSequence(ClassFormats::R4E4T2(), 0, 3);
  sequence.Step(1);
}

TEST_P(BackendConformance, RowsOfAStepSeeOnlyWhatCameBeforeThem) {
  // The same history, appended at once and token by token, attends alike: checked row by row
  // against the reference, which knows causality.
  ModelSequence sequence = NewSequence(ClassFormats::Uniform({}), 0, 4);
  sequence.Step(16);
  sequence.Seal(kE);
  for (int i = 0; i < 16; ++i) sequence.Step(1);
}

TEST_P(BackendConformance, AttendsToABatchOfSequencesInOneStep) {
  std::vector<ModelSequence> sequences;
  for (uint32_t i = 0; i < 4; ++i) {
    sequences.push_back(NewSequence(ClassFormats::R4E4T2(), i, 50 + i));
    for (uint32_t group = 0; group < i; ++group) {  // from none to three pages
      sequences[i].Step(16);
      sequences[i].Seal(kThoughts[(i + group) % 3]);
    }
    sequences[i].Step(i + 1);
  }
  // Sequence 1 is shown and has no rows.
  StepTogether(&device(), {{&sequences[2], 1}, {&sequences[0], 1}, {&sequences[1], 0}});
  StepTogether(&device(),
               {{&sequences[3], 1}, {&sequences[1], 1}, {&sequences[0], 1}, {&sequences[2], 1}});
}

TEST_P(BackendConformance, SomeSequencesOfAStepPrefillWhileOthersDecode) {
  std::vector<ModelSequence> sequences;
  for (uint32_t i = 0; i < 4; ++i) {
    sequences.push_back(NewSequence(ClassFormats::R4E4T2(), i, 60 + i));
  }
  for (const uint32_t decoding : {1u, 3u}) {
    for (int group = 0; group < 3; ++group) {
      sequences[decoding].Step(16);
      sequences[decoding].Seal(kThoughts[group]);
    }
    sequences[decoding].Step(decoding);
  }
  for (int group = 0; group < 2; ++group) {
    StepTogether(
        &device(),
        {{&sequences[0], 16}, {&sequences[1], 1}, {&sequences[2], 16}, {&sequences[3], 1}});
    if (HasFailure()) return;
    sequences[0].Seal(kR);
    sequences[2].Seal(kE);
  }
  StepTogether(&device(),
               {{&sequences[1], 1}, {&sequences[0], 7}, {&sequences[3], 11}, {&sequences[2], 1}});
}

// Long enough that a backend cuts each head's pages into parts and merges them.
TEST_P(BackendConformance, AttendsOverALongHistory) {
  ModelSequence sequence = NewSequence(ClassFormats::R4E4T2(), 0, 70);
  ModelSequence brief = NewSequence(ClassFormats::R4E4T2(), 1, 71);
  sequence.compare_attention(false);
  for (uint32_t group = 0; group < 40; ++group) {
    sequence.Step(16);
    sequence.Seal(kThoughts[(group / 3 + group) % 3]);
    if (group % 8 == 7) {
      const uint32_t end = sequence.next_position();
      sequence.Anneal({.thought = kThoughts[group / 8 % 3],
                       .first_position = end - 100,
                       .end_position = end - 20,
                       .keep = 9});
    }
    if (HasFailure()) return;
  }
  sequence.compare_attention(true);
  sequence.Step(1);
  StepTogether(&device(), {{&brief, 2}, {&sequence, 1}});
  sequence.Step(14);
}

TEST_P(BackendConformance, SealFillsDeadSlotsFirstAndLeavesNeighboursAlone) {
  ModelSequence sequence = NewSequence(ClassFormats::R4E4T2(), 0, 5);
  for (int group = 0; group < 3; ++group) {
    sequence.Step(16);
    sequence.Seal(kT);
  }
  sequence.Anneal({.thought = kT, .first_position = 0, .end_position = 32, .keep = 8});
  const size_t pages = sequence.View().pages[Index(kT)].size();
  sequence.Step(16);
  sequence.Seal(kT);  // 24 dead slots: no new page
  EXPECT_EQ(sequence.View().pages[Index(kT)].size(), pages);
  EXPECT_EQ(sequence.LiveCount(kT), 8u + 16u + 16u);
  sequence.Step(16);
}

TEST_P(BackendConformance, SealOfAPartialGroupWritesOnlyItsTokens) {
  ModelSequence sequence = NewSequence(ClassFormats::R4E4T2(), 0, 6);
  sequence.Step(5);
  sequence.Seal(kR);
  EXPECT_EQ(sequence.LiveCount(kR), 5u);
  sequence.Seal(kR);  // nothing open: nothing happens
  EXPECT_EQ(sequence.LiveCount(kR), 5u);
  sequence.Step(13);
  sequence.Seal(kR);  // 11 into the rest of the page, 2 into the next
  EXPECT_EQ(sequence.LiveCount(kR), 18u);
  sequence.Step(2);
}

TEST_P(BackendConformance, SealWithTooFewDeadSlotsChangesNothing) {
  ModelSequence fits = NewSequence(ClassFormats::R4E4T2(), 0, 7);
  ModelSequence full = NewSequence(ClassFormats::R4E4T2(), 1, 8);
  for (ModelSequence* sequence : {&fits, &full}) {
    sequence->Step(16);
    sequence->Seal(kR);
    sequence->Step(4);
  }
  const PageOffset page = device().NewPage(ClassFormats::R4E4T2().of(kR));
  std::vector<SequenceView> views = {fits.View(), full.View()};
  const std::vector<PageOffset> roomy = {views[0].pages[Index(kR)][0], page};
  views[0].pages[Index(kR)] = roomy;
  const SealOrder orders[] = {{.sequence = 0, .thought = kR}, {.sequence = 1, .thought = kR}};
  const std::vector<uint8_t> before = device().ReadPages();
  absl::Status status = backend().Seal(views, orders);
  if (status.ok()) status = backend().Synchronize();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_EQ(device().ReadPages(), before);
  EXPECT_EQ(backend().Seal(views, {orders, 1}), absl::OkStatus());  // it was told once
  EXPECT_EQ(backend().Synchronize(), absl::OkStatus());
}

TEST_P(BackendConformance, AnnealToAtLeastTheLiveCountIsANoOp) {
  ModelSequence sequence = NewSequence(ClassFormats::R4E4T2(), 0, 9);
  sequence.Step(16);
  sequence.Seal(kE);
  const std::vector<uint8_t> before = device().ReadPages();
  for (const Selector selector : {Selector::kKMeansMedoids, Selector::kMostRecent}) {
    for (const uint32_t keep : {16u, 17u, 1000u}) {
      sequence.Anneal({.thought = kE, .end_position = 16, .keep = keep, .selection = {selector}});
    }
  }
  EXPECT_EQ(device().ReadPages(), before);
}

TEST_P(BackendConformance, AnnealTouchesOnlyItsSegmentAndItsClass) {
  ModelSequence sequence = NewSequence(ClassFormats::R4E4T2(), 0, 10);
  for (const Thought thought : {kR, kE, kR}) {
    sequence.Step(16);
    sequence.Seal(thought);
  }
  sequence.Anneal({.thought = kR, .first_position = 8, .end_position = 40, .keep = 3});
  EXPECT_EQ(sequence.LiveCount(kR), 8u + 3u + 8u);
  EXPECT_EQ(sequence.LiveCount(kE), 16u);
}

TEST_P(BackendConformance, AnnealToZeroEmptiesTheSegment) {
  ModelSequence sequence = NewSequence(ClassFormats::R4E4T2(), 0, 11);
  sequence.Step(16);
  sequence.Seal(kT);
  sequence.Anneal({.thought = kT, .end_position = 16, .keep = 0});
  EXPECT_EQ(sequence.LiveCount(kT), 0u);
  sequence.Step(3);
}

TEST_P(BackendConformance, KMeansSurvivorsEqualALiteralTranscription) {
  for (const Format k : kFormats) {
    SCOPED_TRACE(testing::Message() << "keys in " << Name(k));
    ModelSequence sequence = NewSequence(ClassFormats::Uniform({k, Format::kTernary}), 2, 12);
    for (int group = 0; group < 8; ++group) {
      sequence.Step(16);
      sequence.Seal(kR);
    }
    for (const uint32_t keep : {64u, 32u, 16u, 8u, 4u, 1u}) {
      sequence.Anneal({.thought = kR, .end_position = 128, .keep = keep});
      EXPECT_EQ(sequence.LiveCount(kR), keep);
      if (HasFailure()) return;
    }
  }
}

TEST_P(BackendConformance, RandomHistoriesAgreeWithAPlainModel) {
  for (uint64_t seed = 0; seed < 4; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Bf16Gaussian random(seed);
    ClassFormats formats;
    for (PageFormat& format : formats.by_thought) {
      format = {kFormats[random.Below(kFormatCount)], kFormats[random.Below(kFormatCount)]};
    }
    ModelSequence sequence = NewSequence(formats, 3, 100 + seed);
    for (int round = 0; round < 12; ++round) {
      FillOpenGroup(&sequence, &random);
      sequence.Seal(kThoughts[random.Below(3)]);
      if (random.Below(2) == 0) {
        const auto first = static_cast<uint32_t>(random.Below(sequence.next_position()));
        sequence.Anneal({.thought = kThoughts[random.Below(3)],
                         .first_position = first,
                         .end_position = first + static_cast<uint32_t>(random.Below(64)),
                         .keep = static_cast<uint32_t>(random.Below(20)),
                         .selection = {random.Below(2) == 0 ? Selector::kMostRecent
                                                            : Selector::kKMeansMedoids}});
      }
      for (const Thought thought : kThoughts) sequence.LiveCount(thought);
      if (HasFailure()) return;
    }
    sequence.Step(16);
  }
}

TEST_P(BackendConformance, SparsityEqualsTheReference) {
  ModelSequence sequence = NewSequence(ClassFormats::R4E4T2(), 0, 13);
  for (int group = 0; group < 6; ++group) {
    for (int layer = 0; layer < device().shape().layers; ++layer) {
      const auto [measured, exact] = sequence.Sparsity(layer);
      // One key at the 1 % mark may fall on either side of it.
      EXPECT_NEAR(measured, exact, 1.0 / (16 * group + sequence.open_count()) + 1e-6);
      EXPECT_GE(measured, 0.0);
      EXPECT_LE(measured, 1.0);
    }
    sequence.Step(kGroupTokens - sequence.open_count());
    sequence.Seal(kThoughts[group % 3]);
    if (group == 3) sequence.Anneal({.thought = kT, .end_position = 64, .keep = 5});
  }
}

TEST_P(BackendConformance, SparsityIsMeasuredForTheRowsThatAreWanted) {
  std::vector<ModelSequence> sequences;
  for (uint32_t i = 0; i < 3; ++i) {
    sequences.push_back(NewSequence(ClassFormats::R4E4T2(), i, 80 + i));
    for (uint32_t group = 0; group <= i; ++group) {
      sequences[i].Step(16);
      sequences[i].Seal(kThoughts[group]);
    }
  }
  const std::vector<uint32_t> wanted = {2, 0};
  const auto pairs =
      SparsityTogether(&device(), {&sequences[0], &sequences[1], &sequences[2]}, wanted, 0);
  for (size_t i = 0; i < wanted.size(); ++i) {
    EXPECT_NEAR(pairs[i].measured, pairs[i].exact, 1.0 / (16 * wanted[i] + 17) + 1e-6);
  }
}

TEST_P(BackendConformance, ZeroClearsItsBytesAndNoOthers) {
  ModelSequence sequence = NewSequence(ClassFormats::R4E4T2(), 0, 14);
  for (int group = 0; group < 2; ++group) {
    sequence.Step(16);
    sequence.Seal(kR);
  }
  std::vector<uint8_t> expected = device().ReadPages();
  const PageOffset page = sequence.View().pages[Index(kR)][0];
  const size_t bytes = MakePageLayout(device().shape(), ClassFormats::R4E4T2().of(kR)).page_bytes;
  std::fill_n(expected.begin() + static_cast<int64_t>(page), bytes, 0);
  EXPECT_EQ(backend().Zero(page, bytes), absl::OkStatus());
  EXPECT_EQ(device().ReadPages(), expected);
}

TEST_P(BackendConformance, AZeroedOpenGroupHoldsZeros) {
  ModelSequence sequence = NewSequence(ClassFormats::Uniform({}), 0, 15);
  sequence.Step(16);
  ASSERT_EQ(backend().ZeroOpenGroup(0), absl::OkStatus());
  const std::vector<PageOffset> page = {device().NewPage({})};
  SequenceView view = sequence.View();
  view.pages[Index(kR)] = page;
  const SealOrder order{.sequence = 0, .thought = kR};
  ASSERT_EQ(backend().Seal({&view, 1}, {&order, 1}), absl::OkStatus());
  const PageLayout layout = MakePageLayout(device().shape(), {});
  std::vector<uint8_t> data(layout.positions_offset);
  ASSERT_EQ(backend().Read(page[0], absl::MakeSpan(data)), absl::OkStatus());
  ASSERT_EQ(backend().Synchronize(), absl::OkStatus());
  EXPECT_EQ(std::count(data.begin(), data.end(), 0), std::ssize(data));
}

TEST_P(BackendConformance, RefusesAConfigurationOutOfRange) {
  const auto refused = [&](const char* what, const std::function<void(BackendConfig&)>& spoil) {
    BackendConfig config = device().config();
    spoil(config);
    EXPECT_EQ(adapter_->NewBackend(config).status().code(), absl::StatusCode::kInvalidArgument)
        << what;
  };
  refused("no layer", [](auto& c) { c.shape.layers = 0; });
  refused("head_dim", [](auto& c) { c.shape.head_dim = 24; });
  refused("no query head", [](auto& c) { c.query_heads = 0; });
  refused("query heads", [](auto& c) {
    c.shape.kv_heads = 2;
    c.query_heads = 5;
  });
  refused("no row", [](auto& c) { c.rows_max = 0; });
  refused("rows", [](auto& c) { c.rows_max = 65537; });
}

// A sequence with a page and four open tokens, and arguments that would do for it, to be spoilt.
// At the end: no byte has changed, and the backend goes on as if nothing had been asked.
class Refusal {
 public:
  Refusal(TestDevice* device, ModelSequence sequence)
      : device_(device), sequence_(std::move(sequence)) {
    sequence_.Step(16);
    sequence_.Seal(kR);
    sequence_.Step(4);
    view = sequence_.View();
    const size_t width = static_cast<size_t>(device->query_heads()) * device->shape().head_dim;
    const std::vector<float> ones(width, 1.0f);
    void* const q = device->adapter().Upload(ones);
    tokens = {.q = q, .k = q, .v = q};
    io = {.q = q, .out = device->adapter().Upload(ones), .scale = 1.0f};
    before_ = device->ReadPages();
  }
  Refusal(const Refusal&) = delete;
  Refusal& operator=(const Refusal&) = delete;
  ~Refusal() {
    EXPECT_EQ(device_->ReadPages(), before_);
    sequence_.Step(3);
  }
  static void Expect(const absl::Status& status, const char* what) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << what << ": " << status;
  }

  const SealOrder seal{.thought = kR};
  const StepRows row{.sequence = 0, .row = 0, .count = 1};
  SequenceView view;
  NewTokens tokens;
  LayerActivations io;

 private:
  TestDevice* const device_;
  ModelSequence sequence_;
  std::vector<uint8_t> before_;
};

TEST_P(BackendConformance, RefusesWrongViews) {
  Refusal good(&device(), NewSequence(ClassFormats::R4E4T2(), 0, 16));
  const auto refused = [&](const char* what, const std::function<void(SequenceView&)>& spoil) {
    SequenceView view = good.view;
    spoil(view);
    const AnnealOrder anneal{.thought = kR, .end_position = 16, .keep = 1};
    Refusal::Expect(backend().BeginStep({&view, 1}, {&good.row, 1}), what);
    Refusal::Expect(backend().Seal({&view, 1}, {&good.seal, 1}), what);
    Refusal::Expect(backend().Anneal({&view, 1}, {&anneal, 1}), what);
  };
  const std::vector<PageOffset> unaligned = {8}, outside = {device().config().pool_bytes},
                                beyond = {~PageOffset{15}};
  refused("unaligned page", [&](auto& v) { v.pages[Index(kR)] = unaligned; });
  refused("page past the pool", [&](auto& v) { v.pages[Index(kT)] = outside; });
  refused("page past 2^64", [&](auto& v) { v.pages[Index(kE)] = beyond; });
  refused("open group", [](auto& v) { v.open_group = 4; });
  refused("open count", [](auto& v) { v.open_count = 17; });
  refused("format", [](auto& v) { v.formats.by_thought[1].v = static_cast<Format>(kFormatCount); });
}

TEST_P(BackendConformance, RefusesWrongRows) {
  Refusal good(&device(), NewSequence(ClassFormats::R4E4T2(), 0, 16));
  const auto refused = [&](const char* what, const std::vector<StepRows>& rows) {
    const SequenceView views[] = {good.view, good.view};
    Refusal::Expect(backend().BeginStep(views, rows), what);
  };
  refused("no such sequence", {{.sequence = 2, .count = 1}});
  refused("no rows", {{.count = 0}});
  refused("too many rows", {{.count = 13}});
  refused("count overflow", {{.count = ~uint32_t{0}}});
  refused("sequence twice", {{.count = 1}, {.row = 1, .count = 1}});
  refused("shared open group", {{.count = 1}, {.sequence = 1, .row = 1, .count = 1}});
  refused("rows past rows_max", {{.row = device().config().rows_max, .count = 1}});
  refused("row overflow", {{.row = ~uint32_t{0}, .count = 1}});
}

TEST_P(BackendConformance, RefusesWrongLayersPointersAndIndices) {
  Refusal good(&device(), NewSequence(ClassFormats::R4E4T2(), 0, 16));
  ASSERT_EQ(backend().BeginStep({&good.view, 1}, {&good.row, 1}), absl::OkStatus());
  const uint32_t first = 0, second = 1;
  float sparsity[2];
  const absl::Span<float> room(sparsity, 1);
  for (const int layer : {-1, device().shape().layers}) {
    Refusal::Expect(backend().Append(layer, good.tokens), "layer");
    Refusal::Expect(backend().Attend(layer, good.io), "layer");
    Refusal::Expect(backend().MeasureSparsity(layer, {&first, 1}, good.io, room), "layer");
  }
  for (const void* NewTokens::*pointer : {&NewTokens::k, &NewTokens::v}) {
    NewTokens tokens = good.tokens;
    tokens.*pointer = nullptr;
    Refusal::Expect(backend().Append(0, tokens), "k or v is null");
  }
  LayerActivations io = good.io;
  io.q = nullptr;
  Refusal::Expect(backend().Attend(0, io), "q is null");
  Refusal::Expect(backend().MeasureSparsity(0, {&first, 1}, io, room), "q is null");
  io = good.io;
  io.out = nullptr;
  Refusal::Expect(backend().Attend(0, io), "out is null");
  Refusal::Expect(backend().MeasureSparsity(0, {&second, 1}, good.io, room), "no such rows");
  Refusal::Expect(backend().MeasureSparsity(0, {&first, 1}, good.io, absl::MakeSpan(sparsity)),
                  "room");
}

TEST_P(BackendConformance, RefusesWrongOrders) {
  Refusal good(&device(), NewSequence(ClassFormats::R4E4T2(), 0, 16));
  const SealOrder twice[] = {good.seal, good.seal};
  Refusal::Expect(backend().Seal({&good.view, 1}, twice), "sealed twice");
  const SealOrder elsewhere{.sequence = 1};
  Refusal::Expect(backend().Seal({&good.view, 1}, {&elsewhere, 1}), "seal of no sequence");
  const SealOrder classless{.thought = static_cast<Thought>(3)};
  Refusal::Expect(backend().Seal({&good.view, 1}, {&classless, 1}), "unknown class");
  const AnnealOrder backwards{.thought = kR, .first_position = 2, .end_position = 1};
  Refusal::Expect(backend().Anneal({&good.view, 1}, {&backwards, 1}), "backward segment");
  const AnnealOrder unknown{.thought = kR, .selection = {static_cast<Selector>(9)}};
  Refusal::Expect(backend().Anneal({&good.view, 1}, {&unknown, 1}), "unknown selector");
  const std::vector<PageOffset> same = {0, 0};
  SequenceView overlapping = good.view;
  overlapping.pages[Index(kR)] = same;
  Refusal::Expect(backend().Seal({&overlapping, 1}, {&good.seal, 1}), "a page twice");
}

TEST_P(BackendConformance, RefusesBytesOutsideThePool) {
  Refusal good(&device(), NewSequence(ClassFormats::R4E4T2(), 0, 16));
  const uint64_t pool_bytes = device().config().pool_bytes;
  Refusal::Expect(backend().Zero(pool_bytes, 16), "zero past the pool");
  Refusal::Expect(backend().Zero(16, ~uint64_t{0}), "zero past 2^64");
  Refusal::Expect(backend().ZeroOpenGroup(4), "no open group");
  std::vector<uint8_t> room(32);
  Refusal::Expect(backend().Read(pool_bytes - 16, absl::MakeSpan(room)), "read");
}

TEST_P(BackendConformance, ALayerBeforeAnyStepIsAFailedPrecondition) {
  float sparsity;
  const uint32_t first = 0;
  const size_t width = static_cast<size_t>(device().query_heads()) * device().shape().head_dim;
  void* const q = adapter_->Upload(std::vector<float>(width, 1.0f));
  const LayerActivations io{
      .q = q, .out = adapter_->Upload(std::vector<float>(width)), .scale = 1.0f};
  constexpr auto kExpected = absl::StatusCode::kFailedPrecondition;
  EXPECT_EQ(backend().Append(0, {.q = q, .k = q, .v = q}).code(), kExpected);
  EXPECT_EQ(backend().Attend(0, io).code(), kExpected);
  EXPECT_EQ(backend().MeasureSparsity(0, {&first, 1}, io, {&sparsity, 1}).code(), kExpected);
}

}  // namespace
}  // namespace palimpsest
