// SPDX-License-Identifier: Apache-2.0
// What the CPU backend promises beyond the contract, and what only its memory can show.
#include "kernels/cpu/cpu_backend.h"

#include <cmath>
#include <limits>
#include <utility>

#include "gtest/gtest.h"
#include "kernels/cpu/anneal.h"
#include "kernels/cpu/codec.h"
#include "kernels/cpu/seal.h"
#include "kernels/cpu/sparsity.h"
#include "tests/kernels/conformance/cpu_adapter.h"
#include "tests/kernels/sequence_model.h"

namespace palimpsest {
namespace {

constexpr CacheShape kShape = {.layers = 2, .kv_heads = 3, .head_dim = 64};

struct History {
  std::vector<float> outputs;
  std::vector<uint8_t> pool;
  double sparsity = 0;
  bool operator==(const History&) const = default;
};

// A history long enough for several parts a head.
History RunHistory(int threads) {
  CpuAdapter adapter(threads);
  TestDevice device(&adapter, kShape, 9);
  ModelSequence sequence(&device, ClassFormats::R4E4T2(), 0, 77);
  sequence.compare_attention(false);
  History history;
  for (int group = 0; group < 70; ++group) {
    for (const float x : sequence.Step(16)) history.outputs.push_back(x);
    sequence.Seal(kThoughts[group % 2 + 1]);
    if (group % 20 == 19) {
      const auto end = sequence.next_position();
      sequence.Anneal({.thought = Thought::kReasoning,
                       .first_position = end - 256,
                       .end_position = end - 128,
                       .keep = 32});
    }
  }
  history.sparsity = sequence.Sparsity(1).measured;
  history.pool = device.ReadPages();
  return history;
}

TEST(CpuBackend, ResultsAreTheSameBitsForAnyNumberOfThreads) {
  const History one = RunHistory(1);
  EXPECT_TRUE(one == RunHistory(2));
  EXPECT_TRUE(one == RunHistory(5));
}

// The same of what selectors do: R-KV, H2O, LongFlow and anticipated queries side by side.
std::vector<uint8_t> RunSelectors(int threads) {
  CpuAdapter adapter(threads);
  BackendConfig config{.shape = kShape,
                       .query_heads = 9,
                       .pool_bytes = uint64_t{8} << 20,
                       .open_groups = 4,
                       .rows_max = 64,
                       .query_window = 8};
  config.shape.slot_scores = true;
  auto book = std::make_shared<QueryCodebook>();
  book->layers = kShape.layers;
  book->query_heads = 9;
  book->head_dim = kShape.head_dim;
  book->queries = 16;
  book->inverse_frequencies.assign(kShape.head_dim / 2, 0.01f);
  Bf16Gaussian random(78);
  for (int i = 0; i < kShape.layers * 9 * 16 * kShape.head_dim; ++i) {
    book->data.push_back(FloatToBf16(random.Next(1.5f)));
  }
  config.codebook = book;
  TestDevice device(&adapter, config);
  std::vector<ModelSequence> sequences;
  std::vector<SequenceStep> decode;
  sequences.reserve(4);
  for (const Selector selector : {Selector::kJointScore, Selector::kAttentionReceived,
                                  Selector::kValueAttention, Selector::kAnticipated}) {
    const auto group = static_cast<uint32_t>(sequences.size());
    sequences.emplace_back(&device, ClassFormats::R4E4T2(), group, 79 + group, selector);
    sequences[group].compare_attention(false);
    sequences[group].query_deviation(0.7f);
    decode.push_back({.sequence = &sequences[group], .count = 1});
  }
  for (int group = 0; group < 6; ++group) {
    for (ModelSequence& sequence : sequences) {
      sequence.Step(15);
      sequence.EvictFrom(&sequence == &sequences[2] && group > 0 ? 9 : kNoEviction);
    }
    StepTogether(&device, decode);
    for (ModelSequence& sequence : sequences) {
      sequence.EvictFrom(kNoEviction);
      sequence.Seal(Thought::kReasoning);
    }
    for (const int i : {0, 1, 3}) {
      constexpr Selector kSelectors[] = {Selector::kJointScore, Selector::kAttentionReceived,
                                         Selector::kRandom, Selector::kAnticipated};
      sequences[i].Anneal({.thought = Thought::kReasoning,
                           .first_position = 5,
                           .end_position = sequences[i].next_position(),
                           .keep = 30,
                           .selection = {kSelectors[i], 8}});
    }
  }
  return device.ReadPages();
}

TEST(CpuBackend, SelectorsChooseTheSameTokensForAnyNumberOfThreads) {
  const std::vector<uint8_t> one = RunSelectors(1);
  EXPECT_TRUE(one == RunSelectors(2));
  EXPECT_TRUE(one == RunSelectors(5));
}

// Lanes of several parts beside lanes of one.
History RunUnevenHistory(int threads) {
  CpuAdapter adapter(threads);
  BackendConfig config{.shape = kShape,
                       .query_heads = 9,
                       .pool_bytes = uint64_t{8} << 20,
                       .open_groups = 1,
                       .rows_max = 16};
  config.shape.residue = true;
  config.codebook = WithShares(*RandomCodebook(config, 16), SpreadShares(kShape.lanes()));
  TestDevice device(&adapter, config);
  ModelSequence sequence(&device, ClassFormats::Uniform({Format::kInt4, Format::kInt4}), 0, 84);
  sequence.compare_attention(false);
  std::vector<uint32_t> keeps, capacities;
  for (const float share : config.codebook->lane_shares) {
    keeps.push_back(static_cast<uint32_t>(share * 400));
    capacities.push_back(keeps.back() / kSlotsPerPage + 2);
  }
  sequence.MakeUneven(capacities);
  History history;
  for (int group = 0; group < 70; ++group) {
    for (const float x : sequence.Step(16)) history.outputs.push_back(x);
    sequence.Seal(Thought::kReasoning);
    sequence.Anneal({.thought = Thought::kReasoning,
                     .end_position = sequence.next_position(),
                     .lane_keeps = keeps,
                     .selection = {.selector = Selector::kRandom, .residue = true}});
  }
  history.pool = device.ReadPages();
  return history;
}

TEST(CpuBackend, UnevenLanesAreTheSameBitsForAnyNumberOfThreads) {
  const History one = RunUnevenHistory(1);
  EXPECT_TRUE(one == RunUnevenHistory(2));
  EXPECT_TRUE(one == RunUnevenHistory(5));
}

TEST(CpuBackend, RefusesShapesAndSizesOutOfRange) {
  const auto code = [](CacheShape shape, uint64_t pool_bytes, int threads) {
    return NewCpuBackend({.shape = shape,
                          .query_heads = shape.kv_heads,
                          .pool_bytes = pool_bytes,
                          .open_groups = 1},
                         threads)
        .status()
        .code();
  };
  EXPECT_EQ(code(kShape, 0, 1), absl::StatusCode::kOk);
  for (const CacheShape& shape : {CacheShape{0, 1, 64}, CacheShape{1, 0, 64}, CacheShape{1, 1, 0},
                                  CacheShape{1, 1, 24}, CacheShape{1, 1, 272}}) {
    EXPECT_EQ(code(shape, 4096, 1), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(code(kShape, 4096, 0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(kShape, ~uint64_t{0}, 1), absl::StatusCode::kInvalidArgument);
}

TEST(CpuBackend, RefusesNanAndNonFiniteQueriesAndSaturatesInfiniteKeys) {
  const CacheShape shape{.layers = 1, .kv_heads = 1, .head_dim = 16};
  auto backend =
      *NewCpuBackend({.shape = shape, .query_heads = 1, .pool_bytes = 4096, .open_groups = 1}, 1);
  const SequenceView view{.open_group = 0};
  const StepRows rows{.count = 1};
  std::vector<float> q(16, 1.0f), k(16, 0.5f), v(16, 2.0f), out(16);
  const LayerActivations io{.q = q.data(), .out = out.data(), .scale = 1.0f};
  const auto append = [&] { return backend->Append(0, {.k = k.data(), .v = v.data()}).code(); };
  const auto attend = [&] { return backend->Attend(0, io).code(); };
  ASSERT_EQ(backend->BeginStep({&view, 1}, {&rows, 1}), absl::OkStatus());
  ASSERT_EQ(append(), absl::StatusCode::kOk);
  for (std::vector<float>* x : {&k, &v}) {
    const float old = std::exchange((*x)[7], std::numeric_limits<float>::quiet_NaN());
    EXPECT_EQ(append(), absl::StatusCode::kInvalidArgument);
    (*x)[7] = old;
  }
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    q[3] = bad;
    EXPECT_EQ(attend(), absl::StatusCode::kInvalidArgument);
  }
  q[3] = 0.0f;
  k[3] = std::numeric_limits<float>::infinity();
  ASSERT_EQ(append(), absl::StatusCode::kOk);
  ASSERT_EQ(attend(), absl::StatusCode::kOk);
  for (const float x : out) EXPECT_EQ(x, 2.0f);
}

TEST(CpuBackend, AStepThatWasRefusedIsNoStep) {
  CpuAdapter adapter;
  TestDevice device(&adapter, kShape, 9);
  const SequenceView view{.open_group = 0};
  StepRows rows{.count = 1};
  ASSERT_EQ(device.backend().BeginStep({&view, 1}, {&rows, 1}), absl::OkStatus());
  rows.count = 17;
  EXPECT_EQ(device.backend().BeginStep({&view, 1}, {&rows, 1}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(device.backend().Append(0, {}).code(), absl::StatusCode::kFailedPrecondition);
}

// What the caller of an eviction promises, and only the pages can show.
TEST(CpuBackend, AnEvictionThatCannotBeIsAFailedPreconditionAndChangesNothing) {
  CpuAdapter adapter;
  BackendConfig config{
      .shape = kShape, .query_heads = 9, .pool_bytes = uint64_t{1} << 20, .open_groups = 1};
  config.shape.slot_scores = true;
  TestDevice device(&adapter, config);
  ModelSequence sequence(&device, ClassFormats::R4E4T2(), 0, 80, Selector::kValueAttention);
  sequence.Step(16);
  sequence.Seal(Thought::kReasoning);
  const std::vector<float> q(size_t{9} * kShape.head_dim, 1.0f);
  std::vector<float> out(q.size(), 7.0f);
  const auto attend_evicting_from = [&](uint32_t position) {
    SequenceView view = sequence.View();
    view.evict_from = position;
    const StepRows row{.count = 1};
    EXPECT_EQ(device.backend().BeginStep({&view, 1}, {&row, 1}), absl::OkStatus());
    return device.backend().Attend(0, {.q = q.data(), .out = out.data(), .scale = 0.1f}).code();
  };
  const std::vector<uint8_t> before = device.ReadPages();
  EXPECT_EQ(attend_evicting_from(16), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(device.ReadPages(), before);
  sequence.Anneal({.thought = Thought::kReasoning,
                   .end_position = 16,
                   .keep = 4,
                   .selection = {Selector::kRandom}});  // heads differ
  EXPECT_EQ(attend_evicting_from(0), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(out, std::vector<float>(q.size(), 7.0f));
}

// Lanes whose live tokens differ, made by hand to be small.
class UnequalLanes : public ::testing::Test {
 protected:
  static constexpr CacheShape kTwoHeads = {.layers = 1, .kv_heads = 2, .head_dim = 16};

  UnequalLanes()
      : memory_(*PoolMemory::Allocate(
            {.shape = kTwoHeads, .query_heads = 2, .pool_bytes = 1 << 16, .open_groups = 1})) {
    view_ = {.formats = ClassFormats::Uniform({}), .open_group = 0};
    view_.pages[Index(Thought::kReasoning)] = pages_;
    Bf16Gaussian random(5);
    for (int head = 0; head < 2; ++head) {
      const LaneRef lane = memory_.lane({}, 0, 0, head);
      *lane.live = head == 0 ? 0x0fff : 0xfff0;  // 12 tokens each, not the same ones
      for (int slot = 0; slot < 16; ++slot) {
        lane.positions[slot] = static_cast<uint32_t>(15 - slot);  // and not in slot order
        for (int c = 0; c < 16; ++c) {
          const uint16_t bits = FloatToBf16(random.Next(1.0f));
          lane.bytes[32 * slot + 2 * c] = static_cast<uint8_t>(bits & 0xff);
          lane.bytes[32 * slot + 2 * c + 1] = static_cast<uint8_t>(bits >> 8);
        }
      }
    }
  }
  std::vector<reference::Token> Tokens(int head) {
    const LaneRef lane = memory_.lane({}, 0, 0, head);
    std::vector<reference::Token> tokens;
    for (int slot = 15; slot >= 0; --slot) {  // ascending positions
      if ((*lane.live >> slot & 1) == 0) continue;
      float k[16];
      DecodeSlot(Format::kBf16, lane.bytes + 32 * slot, nullptr, 16, k);
      tokens.push_back({lane.positions[slot], {k, k + 16}, {}});
    }
    return tokens;
  }

  const std::vector<PageOffset> pages_ = {0};
  PoolMemory memory_;
  TaskTeam team_{1};
  SequenceView view_;
};

TEST_F(UnequalLanes, AnnealChoosesHeadByHead) {
  std::vector<std::vector<uint32_t>> expected;
  for (int head = 0; head < 2; ++head) {
    const auto tokens = Tokens(head);
    std::vector<reference::Vector> keys;
    for (const auto& token : tokens) keys.push_back(token.k);
    auto& kept = expected.emplace_back();
    for (const uint32_t i : reference::KMeansMedoids(keys, 4)) kept.push_back(tokens[i].position);
  }
  const AnnealOrder order{.thought = Thought::kReasoning, .end_position = 16, .keep = 4};
  Anneal(memory_, {&view_, 1}, {&order, 1}, team_);
  for (int head = 0; head < 2; ++head) {
    std::vector<uint32_t> left;
    for (const auto& token : Tokens(head)) left.push_back(token.position);
    EXPECT_EQ(left, expected[head]);
  }
}

TEST_F(UnequalLanes, MostRecentCountsInEachLane) {
  const AnnealOrder order{.thought = Thought::kReasoning,
                          .end_position = 16,
                          .keep = 2,
                          .selection = {Selector::kMostRecent}};
  Anneal(memory_, {&view_, 1}, {&order, 1}, team_);
  EXPECT_EQ(*memory_.lane({}, 0, 0, 0).live, 0x0003);  // positions 15, 14
  EXPECT_EQ(*memory_.lane({}, 0, 0, 1).live, 0x0030);  // positions 11, 10
}

TEST_F(UnequalLanes, SparsityPairsTheKeysOfHeadsByRank) {
  std::vector<float> q(2 * 16);
  Bf16Gaussian random(6);
  for (float& x : q) x = random.Next(2.0f);
  const StepRows rows{.count = 1};  // its own key in the open group is zero
  const LayerActivations io{.q = q.data(), .scale = 1.0f};
  float sparsity = -1;
  view_.open_position = 16;
  ASSERT_EQ(MeasureSparsity(memory_, 0, {&view_, 1}, {&rows, 1}, io, team_, {&sparsity, 1}),
            absl::OkStatus());
  std::vector<std::vector<reference::Token>> heads = {Tokens(0), Tokens(1)};
  std::vector<std::vector<reference::Vector>> queries;
  for (int head = 0; head < 2; ++head) {
    heads[head].push_back({16, reference::Vector(16, 0.0), {}});
    queries.push_back({{q.begin() + 16 * head, q.begin() + 16 * (head + 1)}});
  }
  EXPECT_FLOAT_EQ(sparsity, static_cast<float>(reference::Sparsity(queries, heads, 1.0)));
}

TEST_F(UnequalLanes, SparsityOfUnequalCountsIsAnInternalError) {
  *memory_.lane({}, 0, 0, 1).live = 0x0001;
  const std::vector<float> q(2 * 16, 1.0f);
  const StepRows rows{.count = 1};
  const LayerActivations io{.q = q.data(), .scale = 1.0f};
  float sparsity = -1;
  EXPECT_EQ(MeasureSparsity(memory_, 0, {&view_, 1}, {&rows, 1}, io, team_, {&sparsity, 1}).code(),
            absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace palimpsest
