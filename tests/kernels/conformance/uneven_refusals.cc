// SPDX-License-Identifier: Apache-2.0
// What backends refuse of uneven sequences, and of the shares that lanes' ranks are made of.
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "tests/kernels/conformance/backend_conformance.h"

namespace palimpsest {
namespace {

constexpr Thought kR = Thought::kReasoning;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

// With all that selectors could want.
void WithEverything(BackendConfig& config) {
  config.shape.residue = true;
  config.shape.slot_scores = true;
  config.query_window = 8;
  config.codebook = WithShares(*RandomCodebook(config, 16), SpreadShares(config.shape.lanes()));
}

// An even page, two behind it, and four open tokens.
ModelSequence UnevenSequence(TestDevice* device, uint32_t open_group, uint64_t seed) {
  ModelSequence sequence(device, ClassFormats::R4E4T2(), open_group, seed);
  sequence.Step(kGroupTokens);
  sequence.Seal(kR);
  std::vector<uint32_t> capacities = RankLanes(device->config().codebook->lane_shares);
  for (uint32_t& capacity : capacities) capacity = capacity == 0 ? 3 : 2;
  sequence.MakeUneven(capacities);
  for (int group = 0; group < 2; ++group) {
    sequence.Step(kGroupTokens);
    sequence.Seal(kR);
  }
  sequence.Step(4);
  return sequence;
}

TEST_P(BackendConformance, RefusesWrongViewsOfUnevenSequences) {
  TestDevice device = NewDevice(&WithEverything);
  ModelSequence sequence = UnevenSequence(&device, 0, 600);
  const std::vector<uint8_t> before = device.ReadPages();
  const StepRows row{.count = 1};
  const SealOrder seal{.thought = kR};
  const AnnealOrder anneal{
      .thought = kR, .end_position = 40, .keep = 1, .selection = {Selector::kMostRecent}};
  const auto refused = [&](const char* what, const std::function<void(SequenceView&)>& spoil) {
    SequenceView view = sequence.View();
    spoil(view);
    EXPECT_EQ(device.backend().BeginStep({&view, 1}, {&row, 1}).code(), kInvalid) << what;
    EXPECT_EQ(device.backend().Seal({&view, 1}, {&seal, 1}).code(), kInvalid) << what;
    EXPECT_EQ(device.backend().Anneal({&view, 1}, {&anneal, 1}).code(), kInvalid) << what;
  };
  const SequenceView good = sequence.View();
  const auto copy = [](absl::Span<const uint32_t> from) {
    return std::vector<uint32_t>(from.begin(), from.end());
  };
  std::vector<uint32_t> counts = copy(good.uneven.block_counts);
  ++counts.back();
  refused("a block too many", [&](auto& v) { v.uneven.block_counts = counts; });
  refused("lanes", [&](auto& v) {
    v.uneven.block_counts = good.uneven.block_counts.first(counts.size() - 1);
  });
  refused("even pages", [](auto& v) { v.uneven.even_pages = 4; });
  refused("fewer even pages", [](auto& v) { v.uneven.even_pages = 0; });
  refused("no rounds", [](auto& v) { v.uneven.round_first = {}; });
  const auto rounds = [&](const char* what, const std::function<void(std::vector<uint32_t>&)>& to) {
    std::vector<uint32_t> round_first = copy(good.uneven.round_first);
    to(round_first);
    refused(what, [&](auto& v) { v.uneven.round_first = round_first; });
  };
  const auto lanes = static_cast<uint32_t>(counts.size());
  rounds("not from 0", [](auto& r) { r[0] = 1; });
  rounds("an empty round", [](auto& r) { r.push_back(r.back()); });
  rounds("a round that falls", [](auto& r) { r.push_back(r.back() - 1); });
  rounds("a round that grows", [](auto& r) { r.push_back(r.back() + 2); });
  rounds("a round too large", [&](auto& r) { r = {0, lanes + 1}; });
  refused("a missing page", [](auto& v) { v.pages[Index(kR)].remove_suffix(1); });
  const std::vector<PageOffset> page = {device.NewPage(good.formats.of(Thought::kTransition))};
  refused("another class", [&](auto& v) { v.pages[Index(Thought::kTransition)] = page; });
  refused("scores", [](auto& v) { v.slot_score = SlotScore::kAttentionReceived; });
  refused("queries", [](auto& v) { v.keeps_queries = true; });
  refused("eviction", [](auto& v) {
    v.slot_score = SlotScore::kValueNorm;
    v.evict_from = 20;
  });
  std::vector<uint8_t> after = device.ReadPages();
  after.resize(before.size());
  EXPECT_EQ(after, before);
  sequence.Step(3);
}

TEST_P(BackendConformance, RefusesUnevenSequencesWithoutShares) {
  TestDevice with = NewDevice(&WithEverything);
  const ModelSequence sequence = UnevenSequence(&with, 0, 601);
  TestDevice shareless = NewDevice([](BackendConfig& c) { c.codebook = RandomCodebook(c, 16); });
  const StepRows row{.count = 1};
  const SequenceView view = sequence.View();
  EXPECT_EQ(shareless.backend().BeginStep({&view, 1}, {&row, 1}).code(), kInvalid);
  EXPECT_EQ(backend().BeginStep({&view, 1}, {&row, 1}).code(), kInvalid);  // no codebook at all
}

TEST_P(BackendConformance, RefusesOrdersThatUnevenSequencesCannotFollow) {
  TestDevice device = NewDevice(&WithEverything);
  ModelSequence uneven = UnevenSequence(&device, 0, 602);
  ModelSequence even(&device, ClassFormats::R4E4T2(), 1, 603);
  even.Step(kGroupTokens);
  even.Seal(kR);
  const std::vector<uint8_t> before = device.ReadPages();
  const std::vector<uint32_t> keeps(static_cast<size_t>(device.shape().lanes()) + 1, 3);
  const auto code = [&](const ModelSequence& sequence, Selector selector, size_t lane_keeps) {
    const SequenceView view = sequence.View();
    const AnnealOrder order{.thought = kR,
                            .end_position = 16,
                            .keep = 3,
                            .lane_keeps = absl::MakeConstSpan(keeps).first(lane_keeps),
                            .selection = {selector}};
    return device.backend().Anneal({&view, 1}, {&order, 1}).code();
  };
  const size_t lanes = keeps.size() - 1;
  EXPECT_EQ(code(even, Selector::kMostRecent, lanes), kInvalid);
  EXPECT_EQ(code(uneven, Selector::kMostRecent, lanes - 1), kInvalid);
  EXPECT_EQ(code(uneven, Selector::kMostRecent, lanes + 1), kInvalid);
  for (const Selector selector : {Selector::kKMeansMedoids, Selector::kJointScore,
                                  Selector::kAttentionReceived, Selector::kValueAttention}) {
    EXPECT_EQ(code(uneven, selector, lanes), kInvalid);
    EXPECT_EQ(code(uneven, selector, 0), kInvalid);
  }
  EXPECT_EQ(device.ReadPages(), before);
  StepTogether(&device, {{&uneven, 1}, {&even, 1}});
}

TEST_P(BackendConformance, RefusesTheSparsityOfUnevenSequencesAlone) {
  TestDevice device = NewDevice(&WithEverything);
  ModelSequence uneven = UnevenSequence(&device, 0, 604);
  ModelSequence even(&device, ClassFormats::R4E4T2(), 1, 605);
  StepTogether(&device, {{&uneven, 1}, {&even, 1}});
  const size_t width = static_cast<size_t>(device.query_heads()) * device.shape().head_dim;
  void* const q = device.adapter().Upload(std::vector<float>(2 * width, 1.0f));
  const LayerActivations io{.q = q, .scale = device.scale()};
  float sparsity[2] = {-1.0f, -1.0f};
  const auto code = [&](std::vector<uint32_t> wanted) {
    return device.backend()
        .MeasureSparsity(0, wanted, io, absl::MakeSpan(sparsity, wanted.size()))
        .code();
  };
  EXPECT_EQ(code({0}), kInvalid);
  EXPECT_EQ(code({1, 0}), kInvalid);
  EXPECT_EQ(code({1}), absl::StatusCode::kOk);
  EXPECT_EQ(device.backend().Synchronize(), absl::OkStatus());
  EXPECT_EQ(sparsity[0], 0.0f);  // of one token
  device.adapter().Free(q);
}

TEST_P(BackendConformance, RefusesSharesOfUnevenLanesOutOfRange) {
  BackendConfig config = device().config();
  const std::vector<float> good = SpreadShares(config.shape.lanes());
  const auto code = [&](const std::function<void(std::vector<float>&)>& spoil) {
    std::vector<float> shares = good;
    spoil(shares);
    config.codebook = WithShares(*RandomCodebook(config, 16), shares);
    return adapter_->NewBackend(config).status().code();
  };
  EXPECT_EQ(code([](auto&) {}), absl::StatusCode::kOk);
  EXPECT_EQ(code([](auto& s) { s.clear(); }), absl::StatusCode::kOk);
  EXPECT_EQ(code([](auto& s) { s[0] *= 1.004f; }), absl::StatusCode::kOk);
  EXPECT_EQ(code([](auto& s) { s.push_back(1.0f); }), kInvalid);
  EXPECT_EQ(code([](auto& s) { s.pop_back(); }), kInvalid);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), HUGE_VALF, 0.0f, -1.0f,
                          kLaneShareMin / 2, kLaneShareMax * 2}) {
    EXPECT_EQ(code([&](auto& s) { s[0] = bad; }), kInvalid) << bad;
  }
  EXPECT_EQ(code([](auto& s) {
              for (float& share : s) share *= 1.02f;
            }),
            kInvalid);
}

}  // namespace
}  // namespace palimpsest
