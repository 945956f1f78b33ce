// SPDX-License-Identifier: Apache-2.0
// What attention leaves in the scores of slots, and which token LongFlow evicts, against a softmax
// in double over the same pages.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/codec.h"
#include "tests/kernels/cuda/random_sequence.h"

namespace palimpsest {
namespace {

constexpr uint64_t kPoolBytes = 32 << 20;

struct Shape {
  const char* name;
  CacheShape cache;
  int query_heads;
  int group() const { return query_heads / cache.kv_heads; }
};

// One live token of one KV head.
struct Token {
  bool open = false;
  PageOffset page = 0;
  int slot = 0;  // of the page or the open group
  uint32_t position = 0;
  float score = 0.0f;  // as it lies in memory
  std::vector<float> key = {};
  double mass = 0.0;  // probability, summed over the group
};

class SlotScoresTest : public GpuTest, public ::testing::WithParamInterface<Shape> {
 protected:
  static const Shape& shape() { return GetParam(); }
  static const CacheShape& cache() { return GetParam().cache; }

  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
    pair_ = std::make_unique<BackendPair>(BackendConfig{.shape = cache(),
                                                        .query_heads = shape().query_heads,
                                                        .pool_bytes = kPoolBytes,
                                                        .open_groups = 4,
                                                        .rows_max = 32});
    source_ = std::make_unique<PageSource>(cache(), kPoolBytes);
  }

  size_t width() const { return static_cast<size_t>(cache().kv_heads) * cache().head_dim; }
  static float scale() { return 1.0f / std::sqrt(static_cast<float>(cache().head_dim)); }

  // A step of one row a view, the second view's row first. Attend on the GPU alone.
  void Step(absl::Span<const SequenceView> views, Bf16Numbers& numbers) {
    std::vector<StepRows> rows;
    const auto count = static_cast<uint32_t>(views.size());
    for (uint32_t i = 0; i < count; ++i) {
      rows.push_back({.sequence = i, .row = count - 1 - i, .count = 1});
    }
    pair_->OnBoth([&](Backend& backend) { return backend.BeginStep(views, rows); });
    for (int layer = 0; layer < cache().layers; ++layer) {
      pair_->Append(layer, numbers.Next(count * width()), numbers.Next(count * width()));
      q_.push_back(numbers.Next(size_t{count} * shape().query_heads * cache().head_dim, 2.0f));
      const DeviceArray<uint16_t> q(ToBf16(q_.back())), out(ToBf16(q_.back()));
      ASSERT_EQ(pair_->gpu().Attend(layer, {.q = q.data(), .out = out.data(), .scale = scale()}),
                absl::OkStatus());
      ASSERT_EQ(cudaStreamSynchronize(pair_->gpu().stream()), cudaSuccess);
    }
    ASSERT_EQ(pair_->gpu().Synchronize(), absl::OkStatus());
  }

  // What the sequence holds in a lane of the GPU's pages, and its open tokens up to `open_count`.
  std::vector<Token> Tokens(const SequenceView& view, int layer, int head, uint32_t open_count) {
    std::vector<Token> tokens;
    for (const Thought thought : kThoughts) {
      const PageFormat format = view.formats.of(thought);
      const PageLayout layout = MakePageLayout(cache(), format);
      for (const PageOffset page : view.pages[Index(thought)]) {
        const auto bytes = BackendPair::Bytes(pair_->gpu(), page, layout.page_bytes);
        uint16_t live = 0;
        std::memcpy(&live, &bytes[layout.MaskOffset(layer, head)], 2);
        for (int slot = 0; slot < kSlotsPerPage; ++slot) {
          if ((live >> slot & 1) == 0) continue;
          Token token{.page = page, .slot = slot};
          std::memcpy(&token.position, &bytes[layout.PositionsOffset(layer, head) + 4 * slot], 4);
          std::memcpy(&token.score, &bytes[layout.ScoresOffset(layer, head) + 4 * slot], 4);
          const uint8_t* lane = &bytes[layout.LaneOffset(layer, head)];
          token.key.resize(cache().head_dim);
          DecodeSlot(
              format.k, lane + slot * SlotDataBytes(format.k, cache().head_dim),
              lane + layout.k_scales_offset + slot * SlotScaleBytes(format.k, cache().head_dim),
              cache().head_dim, token.key.data());
          tokens.push_back(std::move(token));
        }
      }
    }
    const uint8_t* group =
        pair_->gpu().pool().open_groups + view.open_group * OpenGroupBytes(cache());
    const auto lane = static_cast<size_t>(layer * cache().kv_heads + head);
    const auto keys = DeviceArray<uint16_t>::ReadDevice(group + lane * OpenGroupLaneBytes(cache()),
                                                        size_t{kGroupTokens} * cache().head_dim);
    const auto scores = DeviceArray<float>::ReadDevice(
        group + OpenGroupScoresOffset(cache(), layer, head), kGroupTokens);
    for (uint32_t i = 0; i < open_count; ++i) {
      Token token{.open = true,
                  .slot = static_cast<int>(i),
                  .position = view.open_position + i,
                  .score = scores[i]};
      for (int c = 0; c < cache().head_dim; ++c) {
        token.key.push_back(Bf16ToFloat(keys[i * cache().head_dim + c]));
      }
      tokens.push_back(std::move(token));
    }
    return tokens;
  }

  // Fills in `mass` from the queries of `row` in `layer` of the step before.
  void Weigh(std::vector<Token>* tokens, int layer, int head, uint32_t row) const {
    for (int g = 0; g < shape().group(); ++g) {
      const size_t query = size_t{row} * shape().query_heads + head * shape().group() + g;
      const float* q = &q_[q_.size() - cache().layers + layer][query * cache().head_dim];
      std::vector<double> logits;
      for (const Token& token : *tokens) {
        double dot = 0;
        for (int c = 0; c < cache().head_dim; ++c) dot += double{q[c]} * token.key[c];
        logits.push_back(dot * scale());
      }
      const double max = *std::max_element(logits.begin(), logits.end());
      double sum = 0;
      for (double& logit : logits) sum += logit = std::exp(logit - max);
      for (size_t i = 0; i < logits.size(); ++i) (*tokens)[i].mass += logits[i] / sum;
    }
  }

  std::unique_ptr<BackendPair> pair_;
  std::unique_ptr<PageSource> source_;
  std::vector<std::vector<float>> q_;  // [rows][query_heads][head_dim] of each Attend so far
};

using Lane = std::pair<int, int>;

TEST_P(SlotScoresTest, EveryTokensScoreIsWhatItReceived) {
  RandomSequence scored(pair_.get(), source_.get(), ClassFormats::R4E4T2(), 1, 7);
  scored.CarryScores(SlotScore::kAttentionReceived);
  scored.Grow(40);
  scored.MakeHoles(Thought::kReasoning, 4);
  RandomSequence plain(pair_.get(), source_.get(), ClassFormats::R4E4T2(), 2, 8);
  plain.Grow(5);
  Bf16Numbers numbers(9);
  std::map<Lane, std::map<uint32_t, double>> expected;  // by position
  for (int step = 0; step < 20; ++step) {
    const SequenceView views[] = {scored.View(), plain.View()};
    Step(views, numbers);
    for (int lane = 0; lane < cache().lanes(); ++lane) {
      const int layer = lane / cache().kv_heads, head = lane % cache().kv_heads;
      std::vector<Token> tokens = Tokens(views[0], layer, head, views[0].open_count + 1);
      Weigh(&tokens, layer, head, 1);
      double total = 0;
      for (const Token& token : tokens) {
        double& score = expected[{layer, head}][token.position];
        score += token.mass;
        total += token.score;
        EXPECT_NEAR(token.score, score, 0.01 * score + 1e-6)
            << "layer " << layer << " head " << head << " position " << token.position;
      }
      EXPECT_NEAR(total, (step + 1) * shape().group(), 0.01 * (step + 1) * shape().group());
      for (const Token& token : Tokens(views[1], layer, head, 0)) EXPECT_EQ(token.score, 0.0f);
    }
    scored.Commit();
    plain.Commit();
    for (RandomSequence* sequence : {&scored, &plain}) {
      if (sequence->View().open_count == kGroupTokens) sequence->SealOnGpu(Thought::kExecution);
    }
  }
}

TEST_P(SlotScoresTest, SealWritesTheNormOfVAsTheCpuDoes) {
  for (const Format format : kFormats) {
    RandomSequence sequence(pair_.get(), source_.get(),
                            ClassFormats::Uniform({Format::kFp8, format}), 0, 11);
    sequence.CarryScores(SlotScore::kValueNorm);
    sequence.Grow(5);
    sequence.ExpectEqualPages();
  }
}

TEST_P(SlotScoresTest, EveryStepEvictsTheTokenOfLeastValue) {
  constexpr uint32_t kPinned = 20;
  std::vector<RandomSequence> sequences;
  for (const uint32_t i : {0, 1}) {
    sequences.emplace_back(pair_.get(), source_.get(), ClassFormats::R4E4T2(), i, 20 + i);
    sequences[i].CarryScores(SlotScore::kValueNorm);
    sequences[i].Grow(static_cast<int>(30 + 20 * i));
  }
  Bf16Numbers numbers(22);
  for (int step = 0; step < 12; ++step) {
    std::vector<SequenceView> views = {sequences[0].View(), sequences[1].View()};
    views[0].evict_from = kPinned;
    if (step % 3 != 0) views[1].evict_from = kPinned;
    std::map<std::pair<size_t, Lane>, std::vector<Token>> before;
    for (size_t i = 0; i < 2; ++i) {
      for (int lane = 0; lane < cache().lanes(); ++lane) {
        const Lane at = {lane / cache().kv_heads, lane % cache().kv_heads};
        before[{i, at}] = Tokens(views[i], at.first, at.second, 0);
      }
    }
    Step(views, numbers);
    for (size_t i = 0; i < 2; ++i) {
      for (int layer = 0; layer < cache().layers; ++layer) {
        std::map<uint32_t, double> value;  // of candidates, by position
        std::vector<uint32_t> gone;        // of each head
        for (int head = 0; head < cache().kv_heads; ++head) {
          std::vector<Token> tokens = before[{i, {layer, head}}];
          const std::vector<Token> now = Tokens(views[i], layer, head, views[i].open_count + 1);
          const size_t sealed = tokens.size();
          for (const Token& token : now) {
            if (token.open) tokens.push_back(token);
          }
          Weigh(&tokens, layer, head, static_cast<uint32_t>(1 - i));
          for (size_t t = 0; t < sealed; ++t) {
            const Token& token = tokens[t];
            if (token.position >= kPinned) value[token.position] += token.mass * token.score;
            const bool lives = std::any_of(now.begin(), now.end(), [&](const Token& other) {
              return other.position == token.position;
            });
            if (!lives) gone.push_back(token.position);
          }
        }
        if (views[i].evict_from == kNoEviction) {
          EXPECT_TRUE(gone.empty());
          continue;
        }
        ASSERT_EQ(gone.size(), static_cast<size_t>(cache().kv_heads)) << "layer " << layer;
        EXPECT_EQ(std::count(gone.begin(), gone.end(), gone[0]), cache().kv_heads);
        ASSERT_EQ(value.count(gone[0]), 1u) << gone[0] << " was pinned";
        double least = value.begin()->second;
        for (const auto& [position, v] : value) least = std::min(least, v);
        EXPECT_LE(value[gone[0]], least * 1.01) << "step " << step << " layer " << layer;
      }
    }
    for (RandomSequence& sequence : sequences) {
      sequence.Commit();
      if (sequence.View().open_count == kGroupTokens) sequence.SealOnGpu(Thought::kReasoning);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, SlotScoresTest,
    ::testing::Values(
        Shape{
            "GroupOfFive", {.layers = 2, .kv_heads = 2, .head_dim = 128, .slot_scores = true}, 10},
        Shape{
            "GroupOfFour", {.layers = 3, .kv_heads = 8, .head_dim = 128, .slot_scores = true}, 32},
        // More than are scored by one launch.
        Shape{"ManyLayers", {.layers = 17, .kv_heads = 1, .head_dim = 64, .slot_scores = true}, 2},
        Shape{"OneHeadEach", {.layers = 1, .kv_heads = 3, .head_dim = 64, .slot_scores = true}, 3},
        Shape{"GroupOfTwelve",
              {.layers = 2, .kv_heads = 1, .head_dim = 64, .slot_scores = true},
              12}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace palimpsest
