// SPDX-License-Identifier: Apache-2.0
#include "tests/kernels/conformance/backend_conformance.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

namespace palimpsest {
namespace {

constexpr Thought kT = Thought::kTransition;
constexpr Thought kE = Thought::kExecution;
constexpr Thought kR = Thought::kReasoning;
constexpr Format kFormats[] = {Format::kBf16, Format::kFp8, Format::kNvfp4, Format::kTernary};

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
      ModelSequence sequence(&device_, ClassFormats::Uniform({k, v}), 0, 1);
      sequence.Step(16);
      sequence.Seal(kR);
      sequence.Step(5);
      ASSERT_FALSE(HasFailure());
    }
  }
}

TEST_P(BackendConformance, AttendsOverClassesOfDifferentFormatsAtOnce) {
  ModelSequence sequence(&device_, ClassFormats::R4E4T2(), 1, 2);
  for (const Thought thought : {kR, kE, kT, kR}) {
    sequence.Step(16);
    sequence.Seal(thought);
  }
  sequence.Step(1);
  sequence.Step(3);
}

TEST_P(BackendConformance, AStepOfOneTokenAttendsToItself) {
  ModelSequence sequence(&device_, ClassFormats::R4E4T2(), 0, 3);
  sequence.Step(1);
}

TEST_P(BackendConformance, RowsOfAStepSeeOnlyWhatCameBeforeThem) {
  // The same history, appended at once and token by token, attends alike: checked row by row
  // against the reference, which knows causality.
  ModelSequence sequence(&device_, ClassFormats::Uniform({}), 0, 4);
  sequence.Step(16);
  sequence.Seal(kE);
  for (int i = 0; i < 16; ++i) sequence.Step(1);
}

TEST_P(BackendConformance, AttendsToABatchOfSequencesInOneCall) {
  constexpr uint32_t kBatch = 3;
  const int dim = device_.shape().head_dim, heads = device_.query_heads();
  std::vector<ModelSequence> sequences;
  for (uint32_t i = 0; i < kBatch; ++i) {
    sequences.emplace_back(&device_, ClassFormats::R4E4T2(), i, 50 + i);
    sequences[i].Step(16);
    sequences[i].Seal(kThoughts[i]);
    sequences[i].Step(i + 1);
  }
  // Zero queries weigh all tokens alike, so what each row gets tells which tokens it saw.
  std::vector<float> zeros(kBatch * heads * dim, 0.0f), outs[2];
  const size_t kv = kBatch * static_cast<size_t>(device_.shape().kv_heads) * dim;
  LayerActivations io{.query_heads = heads, .scale = device_.scale()};
  io.q = adapter_->Upload(zeros);
  io.k = adapter_->Upload(std::vector<float>(kv, 1.0f));
  io.v = adapter_->Upload(std::vector<float>(kv, 2.0f));
  std::vector<SequenceView> views;
  std::vector<StepRows> rows;
  for (uint32_t i = 0; i < kBatch; ++i) {
    views.push_back(sequences[i].View());
    rows.push_back({.sequence = i, .row = kBatch - 1 - i, .count = 1});
  }
  ASSERT_EQ(device_.backend().Append(0, views, rows, io), absl::OkStatus());
  for (const bool together : {true, false}) {
    io.out = adapter_->Upload(zeros);
    for (uint32_t i = 0; i < (together ? 1 : kBatch); ++i) {
      const auto some = together ? absl::MakeConstSpan(rows) : absl::MakeConstSpan(&rows[i], 1);
      ASSERT_EQ(device_.backend().Attend(0, views, some, io), absl::OkStatus());
    }
    ASSERT_EQ(device_.backend().Synchronize(), absl::OkStatus());
    outs[together] = adapter_->Download(io.out, zeros.size());
  }
  EXPECT_EQ(outs[true], outs[false]);
  const size_t width = static_cast<size_t>(heads) * dim;
  EXPECT_FALSE(std::equal(outs[0].begin(), outs[0].begin() + width, outs[0].begin() + width));
}

TEST_P(BackendConformance, SealFillsDeadSlotsFirstAndLeavesNeighboursAlone) {
  ModelSequence sequence(&device_, ClassFormats::R4E4T2(), 0, 5);
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
  ModelSequence sequence(&device_, ClassFormats::R4E4T2(), 0, 6);
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
  ModelSequence fits(&device_, ClassFormats::R4E4T2(), 0, 7);
  ModelSequence full(&device_, ClassFormats::R4E4T2(), 1, 8);
  for (ModelSequence* sequence : {&fits, &full}) {
    sequence->Step(16);
    sequence->Seal(kR);
    sequence->Step(4);
  }
  const PageOffset page = device_.NewPage(ClassFormats::R4E4T2().of(kR));
  std::vector<SequenceView> views = {fits.View(), full.View()};
  const std::vector<PageOffset> roomy = {views[0].pages[Index(kR)][0], page};
  views[0].pages[Index(kR)] = roomy;
  const SealOrder orders[] = {{.sequence = 0, .thought = kR}, {.sequence = 1, .thought = kR}};
  const std::vector<uint8_t> before = device_.ReadPages();
  EXPECT_EQ(device_.backend().Seal(views, orders).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(device_.ReadPages(), before);
}

TEST_P(BackendConformance, AnnealToAtLeastTheLiveCountIsANoOp) {
  ModelSequence sequence(&device_, ClassFormats::R4E4T2(), 0, 9);
  sequence.Step(16);
  sequence.Seal(kE);
  const std::vector<uint8_t> before = device_.ReadPages();
  for (const Selector selector : {Selector::kKMeansMedoids, Selector::kMostRecent}) {
    for (const uint32_t keep : {16u, 17u, 1000u}) {
      sequence.Anneal({.thought = kE, .end_position = 16, .keep = keep, .selector = selector});
    }
  }
  EXPECT_EQ(device_.ReadPages(), before);
}

TEST_P(BackendConformance, AnnealTouchesOnlyItsSegmentAndItsClass) {
  ModelSequence sequence(&device_, ClassFormats::R4E4T2(), 0, 10);
  for (const Thought thought : {kR, kE, kR}) {
    sequence.Step(16);
    sequence.Seal(thought);
  }
  sequence.Anneal({.thought = kR, .first_position = 8, .end_position = 40, .keep = 3});
  EXPECT_EQ(sequence.LiveCount(kR), 8u + 3u + 8u);
  EXPECT_EQ(sequence.LiveCount(kE), 16u);
}

TEST_P(BackendConformance, AnnealToZeroEmptiesTheSegment) {
  ModelSequence sequence(&device_, ClassFormats::R4E4T2(), 0, 11);
  sequence.Step(16);
  sequence.Seal(kT);
  sequence.Anneal({.thought = kT, .end_position = 16, .keep = 0});
  EXPECT_EQ(sequence.LiveCount(kT), 0u);
  sequence.Step(3);
}

TEST_P(BackendConformance, KMeansSurvivorsEqualALiteralTranscription) {
  for (const Format k : kFormats) {
    SCOPED_TRACE(testing::Message() << "keys in " << Name(k));
    ModelSequence sequence(&device_, ClassFormats::Uniform({k, Format::kTernary}), 2, 12);
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
      format = {kFormats[random.Below(4)], kFormats[random.Below(4)]};
    }
    ModelSequence sequence(&device_, formats, 3, 100 + seed);
    for (int round = 0; round < 12; ++round) {
      FillOpenGroup(&sequence, &random);
      sequence.Seal(kThoughts[random.Below(3)]);
      if (random.Below(2) == 0) {
        const auto first = static_cast<uint32_t>(random.Below(sequence.next_position()));
        sequence.Anneal(
            {.thought = kThoughts[random.Below(3)],
             .first_position = first,
             .end_position = first + static_cast<uint32_t>(random.Below(64)),
             .keep = static_cast<uint32_t>(random.Below(20)),
             .selector = random.Below(2) == 0 ? Selector::kMostRecent : Selector::kKMeansMedoids});
      }
      for (const Thought thought : kThoughts) sequence.LiveCount(thought);
      if (HasFailure()) return;
    }
    sequence.Step(16);
  }
}

TEST_P(BackendConformance, SparsityEqualsTheReference) {
  ModelSequence sequence(&device_, ClassFormats::R4E4T2(), 0, 13);
  for (int group = 0; group < 6; ++group) {
    for (int layer = 0; layer < device_.shape().layers; ++layer) {
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

TEST_P(BackendConformance, ZeroClearsItsBytesAndNoOthers) {
  ModelSequence sequence(&device_, ClassFormats::R4E4T2(), 0, 14);
  for (int group = 0; group < 2; ++group) {
    sequence.Step(16);
    sequence.Seal(kR);
  }
  std::vector<uint8_t> expected = device_.ReadPages();
  const PageOffset page = sequence.View().pages[Index(kR)][0];
  const size_t bytes = MakePageLayout(device_.shape(), ClassFormats::R4E4T2().of(kR)).page_bytes;
  std::fill_n(expected.begin() + static_cast<int64_t>(page), bytes, 0);
  EXPECT_EQ(device_.backend().Zero(page, bytes), absl::OkStatus());
  EXPECT_EQ(device_.ReadPages(), expected);
}

TEST_P(BackendConformance, AZeroedOpenGroupHoldsZeros) {
  ModelSequence sequence(&device_, ClassFormats::Uniform({}), 0, 15);
  sequence.Step(16);
  ASSERT_EQ(device_.backend().ZeroOpenGroup(0), absl::OkStatus());
  const std::vector<PageOffset> page = {device_.NewPage({})};
  SequenceView view = sequence.View();
  view.pages[Index(kR)] = page;
  const SealOrder order{.sequence = 0, .thought = kR};
  ASSERT_EQ(device_.backend().Seal({&view, 1}, {&order, 1}), absl::OkStatus());
  const PageLayout layout = MakePageLayout(device_.shape(), {});
  std::vector<uint8_t> data(layout.positions_offset);
  ASSERT_EQ(device_.backend().Read(page[0], absl::MakeSpan(data)), absl::OkStatus());
  ASSERT_EQ(device_.backend().Synchronize(), absl::OkStatus());
  EXPECT_EQ(std::count(data.begin(), data.end(), 0), std::ssize(data));
}

TEST_P(BackendConformance, RefusesWrongArgumentsAndChangesNothing) {
  ModelSequence sequence(&device_, ClassFormats::R4E4T2(), 0, 16);
  sequence.Step(16);
  sequence.Seal(kR);
  sequence.Step(4);
  const SequenceView good = sequence.View();
  const StepRows good_rows{.sequence = 0, .row = 0, .count = 1};
  const size_t width = static_cast<size_t>(device_.query_heads()) * device_.shape().head_dim;
  const std::vector<float> ones(2 * width, 1.0f);
  LayerActivations good_io{.query_heads = device_.query_heads(), .scale = 1.0f};
  good_io.q = good_io.k = good_io.v = adapter_->Upload(ones);
  good_io.out = adapter_->Upload(ones);
  const std::vector<uint8_t> before = device_.ReadPages();
  const auto refused = [](const absl::Status& status, const char* what) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << what << ": " << status;
  };

  const auto view_refused = [&](const char* what, const std::function<void(SequenceView&)>& spoil) {
    SequenceView view = good;
    spoil(view);
    Backend& backend = device_.backend();
    const SealOrder seal{.thought = kR};
    const AnnealOrder anneal{.thought = kR, .end_position = 16, .keep = 1};
    float sparsity;
    refused(backend.Append(0, {&view, 1}, {&good_rows, 1}, good_io), what);
    refused(backend.Attend(0, {&view, 1}, {&good_rows, 1}, good_io), what);
    refused(backend.MeasureSparsity(0, {&view, 1}, {&good_rows, 1}, good_io, {&sparsity, 1}), what);
    refused(backend.Seal({&view, 1}, {&seal, 1}), what);
    refused(backend.Anneal({&view, 1}, {&anneal, 1}), what);
  };
  const std::vector<PageOffset> unaligned = {8}, outside = {device_.config().pool_bytes},
                                beyond = {~PageOffset{15}};
  view_refused("unaligned page", [&](auto& v) { v.pages[Index(kR)] = unaligned; });
  view_refused("page past the pool", [&](auto& v) { v.pages[Index(kT)] = outside; });
  view_refused("page past 2^64", [&](auto& v) { v.pages[Index(kE)] = beyond; });
  view_refused("open group", [](auto& v) { v.open_group = 4; });
  view_refused("open count", [](auto& v) { v.open_count = 17; });
  view_refused("format", [](auto& v) { v.formats.by_thought[1].v = static_cast<Format>(4); });

  const auto step_refused = [&](const char* what, int layer, std::vector<StepRows> rows,
                                const std::function<void(LayerActivations&)>& spoil) {
    const SequenceView views[] = {good, good};
    LayerActivations io = good_io;
    spoil(io);
    refused(device_.backend().Append(layer, views, rows, io), what);
    refused(device_.backend().Attend(layer, views, rows, io), what);
  };
  const auto keep = [](LayerActivations&) {};
  step_refused("negative layer", -1, {good_rows}, keep);
  step_refused("layer", device_.shape().layers, {good_rows}, keep);
  step_refused("no such sequence", 0, {{.sequence = 2, .count = 1}}, keep);
  step_refused("no rows", 0, {{.count = 0}}, keep);
  step_refused("too many rows", 0, {{.count = 13}}, keep);
  step_refused("count overflow", 0, {{.count = ~uint32_t{0}}}, keep);
  step_refused("sequence twice", 0, {{.count = 1}, {.row = 1, .count = 1}}, keep);
  step_refused("shared open group", 0, {{.count = 1}, {.sequence = 1, .row = 1, .count = 1}}, keep);
  step_refused("null pointers", 0, {good_rows}, [](auto& io) {
    io.k = nullptr;
    io.q = nullptr;
  });

  LayerActivations odd = good_io;
  odd.query_heads = device_.shape().kv_heads * 2 - 1;
  if (device_.shape().kv_heads > 1) {
    refused(device_.backend().Attend(0, {&good, 1}, {&good_rows, 1}, odd), "query heads");
  }
  const SealOrder twice[] = {{.thought = kR}, {.thought = kR}};
  refused(device_.backend().Seal({&good, 1}, twice), "sealed twice");
  const SealOrder elsewhere{.sequence = 1};
  refused(device_.backend().Seal({&good, 1}, {&elsewhere, 1}), "seal of no sequence");
  const SealOrder classless{.thought = static_cast<Thought>(3)};
  refused(device_.backend().Seal({&good, 1}, {&classless, 1}), "unknown class");
  const AnnealOrder backwards{.thought = kR, .first_position = 2, .end_position = 1};
  refused(device_.backend().Anneal({&good, 1}, {&backwards, 1}), "backward segment");
  const std::vector<PageOffset> same = {0, 0};
  SequenceView overlapping = good;
  overlapping.pages[Index(kR)] = same;
  const SealOrder seal{.thought = kR};
  refused(device_.backend().Seal({&overlapping, 1}, {&seal, 1}), "a page twice");
  refused(device_.backend().Zero(device_.config().pool_bytes, 16), "zero past the pool");
  refused(device_.backend().Zero(16, ~uint64_t{0}), "zero past 2^64");
  refused(device_.backend().ZeroOpenGroup(4), "no open group");
  std::vector<uint8_t> room(32);
  refused(device_.backend().Read(device_.config().pool_bytes - 16, absl::MakeSpan(room)), "read");
  EXPECT_EQ(device_.ReadPages(), before);
}

}  // namespace
}  // namespace palimpsest
