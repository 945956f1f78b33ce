// SPDX-License-Identifier: Apache-2.0
// Sparsity agrees with the CPU's, but for keys at the 1 % mark.

#include "tests/kernels/cuda/random_sequence.h"

namespace palimpsest {
namespace {

constexpr Thought kT = Thought::kTransition;
constexpr Thought kE = Thought::kExecution;
constexpr Thought kR = Thought::kReasoning;
constexpr uint64_t kPoolBytes = uint64_t{64} << 20;

struct Shape {
  const char* name;
  CacheShape cache;
  int query_heads;
};
constexpr Shape kShapes[] = {
    {"SmallHeadsOfThree", {.layers = 2, .kv_heads = 3, .head_dim = 64}, 9},
    {"EightB", {.layers = 2, .kv_heads = 8, .head_dim = 128}, 32},
    {"GroupOfSix", {.layers = 1, .kv_heads = 2, .head_dim = 128}, 12},
    {"GroupOfTwenty", {.layers = 1, .kv_heads = 1, .head_dim = 64}, 20},
    {"NoGroup", {.layers = 1, .kv_heads = 5, .head_dim = 64}, 5},
};

class SparsityEquality : public ::testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    const absl::Status status = GpuStatus();
    if (!status.ok()) GTEST_SKIP() << status.message();
  }

  BackendConfig Config() const {
    return {.shape = GetParam().cache,
            .query_heads = GetParam().query_heads,
            .pool_bytes = kPoolBytes,
            .open_groups = 8,
            .rows_max = 128};
  }
};

// Measures all sequences in one step, with some rows each, on both backends and compares. `wanted`
// leaves one out and turns the order round.
void ExpectEqualSparsity(BackendPair* pair, int query_heads, std::vector<RandomSequence>* all,
                         float deviation) {
  std::vector<SequenceView> views;
  std::vector<StepRows> rows;
  std::vector<uint32_t> wanted;
  uint32_t row_count = 0;
  for (uint32_t i = 0; i < all->size(); ++i) {
    views.push_back((*all)[i].View());
    const uint32_t count = 1 + i % 3;
    rows.push_back({.sequence = i, .row = row_count, .count = count});
    row_count += count;
    if (i != 1) wanted.insert(wanted.begin(), i);
  }
  const CacheShape& shape = pair->shape();
  Bf16Numbers& numbers = (*all)[0].numbers();
  pair->OnBoth([&](Backend& backend) { return backend.BeginStep(views, rows); });
  for (int layer = 0; layer < shape.layers; ++layer) {
    const size_t width = size_t{row_count} * shape.kv_heads * shape.head_dim;
    pair->Append(layer, numbers.Next(width), numbers.Next(width));
    const auto q = numbers.Next(size_t{row_count} * query_heads * shape.head_dim, deviation);
    const DeviceArray<uint16_t> gpu_q(ToBf16(q));
    const float scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
    std::vector<float> cpu(wanted.size(), -7.0f), gpu(wanted.size(), -7.0f);
    ASSERT_EQ(pair->cpu().MeasureSparsity(layer, wanted, {.q = q.data(), .scale = scale},
                                          absl::MakeSpan(cpu)),
              absl::OkStatus());
    ASSERT_EQ(pair->gpu().MeasureSparsity(layer, wanted, {.q = gpu_q.data(), .scale = scale},
                                          absl::MakeSpan(gpu)),
              absl::OkStatus());
    ASSERT_EQ(pair->gpu().Synchronize(), absl::OkStatus());
    for (size_t i = 0; i < wanted.size(); ++i) {
      // One key in a thousand may lie at the mark, and one at least.
      const double keys = (*all)[wanted[i]].live_tokens() + rows[wanted[i]].count;
      EXPECT_NEAR(gpu[i], cpu[i], std::max(1.01 / keys, 1e-3)) << "layer " << layer << " of " << i;
    }
  }
}

TEST_P(SparsityEquality, OverAnythingASequenceCanBe) {
  BackendPair pair(Config());
  PageSource source(GetParam().cache, kPoolBytes);
  const ClassFormats formats[] = {
      ClassFormats::R4E4T2(),
      ClassFormats::Uniform({}),
      {{PageFormat{Format::kTernary, Format::kBf16}, PageFormat{Format::kFp8, Format::kNvfp4},
        PageFormat{Format::kInt4, Format::kTernary}}}};
  std::vector<RandomSequence> all;
  for (uint32_t i = 0; i < 6; ++i) {
    all.emplace_back(&pair, &source, formats[i % 3], i, 20 + i);
    if (i == 0) continue;  // nothing but its new rows
    all[i].Grow(static_cast<int>(4 * i * i));
    if (i % 2 == 0) continue;
    all[i].GrowClass(kR, 3);
    all[i].Append(5 + i);
  }
  for (const float deviation : {0.5f, 2.0f, 6.0f}) {
    ExpectEqualSparsity(&pair, GetParam().query_heads, &all, deviation);
  }
}

TEST_P(SparsityEquality, WhereLanesHoldDifferentTokensKeysMeetByRank) {
  BackendPair pair(Config());
  PageSource source(GetParam().cache, kPoolBytes);
  std::vector<RandomSequence> all;
  for (uint32_t i = 0; i < 3; ++i) {
    all.emplace_back(&pair, &source, ClassFormats::R4E4T2(), i, 30 + i);
    for (int round = 0; round < 4; ++round) {
      all[i].GrowClass(kE, 6);
      all[i].GrowClass(kT, 1 + round);
    }
    all[i].MakeHoles(kE, 10 + 5 * i);
    all[i].MakeHoles(kT, 3);
  }
  ExpectEqualSparsity(&pair, GetParam().query_heads, &all, 2.0f);
}

TEST_P(SparsityEquality, WherePositionsLieFarApart) {
  BackendPair pair(Config());
  PageSource source(GetParam().cache, kPoolBytes);
  std::vector<RandomSequence> all;
  for (uint32_t i = 0; i < 3; ++i) {
    all.emplace_back(&pair, &source, ClassFormats::R4E4T2(), i, 40 + i);
    for (const uint32_t position : {0u, 32752u, 65535u, 1000000u, 3000000000u}) {
      all[i].SkipTo(std::max(position, all[i].next_position()));
      all[i].GrowClass(kR, 2);
      all[i].GrowClass(kT, 2);
    }
    all[i].MakeHoles(kR, 6);
  }
  ExpectEqualSparsity(&pair, GetParam().query_heads, &all, 2.0f);
}

INSTANTIATE_TEST_SUITE_P(Shapes, SparsityEquality, ::testing::ValuesIn(kShapes),
                         [](const auto& info) { return info.param.name; });

class Sparsity : public GpuTest {};

TEST_F(Sparsity, UnequalCountsAreInternal) {
  const CacheShape shape = {.layers = 1, .kv_heads = 2, .head_dim = 64};
  BackendPair pair({.shape = shape,
                    .query_heads = 2,
                    .pool_bytes = kPoolBytes,
                    .open_groups = 1,
                    .rows_max = 16});
  PageSource source(shape, kPoolBytes);
  RandomSequence sequence(&pair, &source, ClassFormats::R4E4T2(), 0, 50);
  sequence.GrowClass(kR, 2);
  const PageLayout layout = MakePageLayout(shape, ClassFormats::R4E4T2().of(kR));
  const PageOffset mask = sequence.pages(kR)[0] + layout.masks_offset;
  ASSERT_EQ(pair.gpu().Zero(mask, 1), absl::OkStatus());
  const SequenceView view = sequence.View();
  const StepRows rows{.sequence = 0, .row = 0, .count = 1};
  const uint32_t wanted = 0;
  const DeviceArray<uint16_t> q(2 * 64);
  float share = 0.0f;
  ASSERT_EQ(pair.gpu().BeginStep({&view, 1}, {&rows, 1}), absl::OkStatus());
  ASSERT_EQ(
      pair.gpu().MeasureSparsity(0, {&wanted, 1}, {.q = q.data(), .scale = 1.0f}, {&share, 1}),
      absl::OkStatus());
  EXPECT_EQ(pair.gpu().Synchronize().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace palimpsest
