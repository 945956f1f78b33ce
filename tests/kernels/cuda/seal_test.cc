// SPDX-License-Identifier: Apache-2.0
// Sealed pages are the CPU's, byte for byte, whatever was in the open group.
#include <limits>
#include <random>

#include "tests/kernels/cuda/backend_pair.h"

namespace palimpsest {
namespace {

constexpr Thought kR = Thought::kReasoning;

// Numbers that find the corners of an encoder: kinds change from block to block.
class CornerNumbers {
 public:
  explicit CornerNumbers(uint64_t seed) : engine_(seed) {}

  std::vector<float> Next(size_t count) {
    std::vector<float> values(count);
    for (size_t i = 0; i < count; ++i) {
      if (i % kChannelsPerScale == 0) kind_ = static_cast<int>(engine_() % 9);
      values[i] = Bf16ToFloat(FloatToBf16(Draw()));
    }
    return values;
  }

 private:
  float Draw() {
    const float x = normal_(engine_);
    const auto pick = static_cast<int>(engine_() % 16);
    switch (kind_) {
      case 0:  // zeros of both signs
        return pick % 2 == 0 ? 0.0f : -0.0f;
      case 1:  // one outlier among small ones
        return pick == 0 ? 300.0f * x : 0.01f * x;
      case 2:  // denormals, and what is nearly so
        return x * 0x1p-133f;
      case 3:  // huge: scales saturate
        return x * 1e37f;
      case 4:  // beyond bf16's largest, where sums overflow
        return pick < 4 ? std::numeric_limits<float>::infinity() : x * 3e38f;
      case 5:  // scales at the lower end of E4M3
        return x * 0x1p-11f;
      case 6:  // multiples of a quarter: ties
        return 0.25f * static_cast<float>(pick - 8);
      case 7:  // all equal
        return pick % 2 == 0 ? 1.5f : -1.5f;
      default:
        return x;
    }
  }
  std::mt19937_64 engine_;
  std::normal_distribution<float> normal_{0.0f, 1.0f};
  int kind_ = 0;
};

class SealEquality : public ::testing::TestWithParam<CacheShape> {
 protected:
  void SetUp() override {
    const absl::Status status = GpuStatus();
    if (!status.ok()) GTEST_SKIP() << status.message();
  }
};

// Appends `count` tokens of corner cases to sequence `view` and seals them.
void AppendAndSeal(BackendPair* pair, CornerNumbers* numbers, SequenceView* view, uint32_t count) {
  const CacheShape& shape = pair->shape();
  const StepRows rows{.sequence = 0, .row = 0, .count = count};
  pair->OnBoth([&](Backend& backend) { return backend.BeginStep({view, 1}, {&rows, 1}); });
  const size_t width = size_t{count} * shape.kv_heads * shape.head_dim;
  for (int layer = 0; layer < shape.layers; ++layer) {
    pair->Append(layer, numbers->Next(width), numbers->Next(width));
  }
  view->open_count = count;
  const SealOrder order{.sequence = 0, .thought = kR};
  pair->OnBoth([&](Backend& backend) { return backend.Seal({view, 1}, {&order, 1}); });
  view->open_position += count;
  view->open_count = 0;
}

TEST_P(SealEquality, EveryPairOfFormatsGivesTheCpusBytes) {
  BackendPair pair({.shape = GetParam(),
                    .query_heads = GetParam().kv_heads,
                    .pool_bytes = uint64_t{32} << 20,
                    .open_groups = 2,
                    .rows_max = 16});
  CornerNumbers numbers(7);
  PageOffset next = 0;
  for (const Format k : kFormats) {
    for (const Format v : kFormats) {
      SCOPED_TRACE(testing::Message() << Name(k) << "/" << Name(v));
      const uint64_t bytes = MakePageLayout(GetParam(), {k, v}).page_bytes;
      const std::vector<PageOffset> pages = {next + 2 * bytes, next, next + bytes};
      SequenceView view{.formats = ClassFormats::Uniform({k, v}), .open_group = 1};
      view.pages[Index(kR)] = pages;
      for (const uint32_t count : {16u, 5u, 16u, 1u}) {
        AppendAndSeal(&pair, &numbers, &view, count);
      }
      pair.ExpectEqualBytes(next, 3 * bytes);
      next += 3 * bytes;
      if (HasFailure()) return;
    }
  }
}

TEST_P(SealEquality, HolesAreFilledLaneByLane) {
  const PageFormat format{Format::kNvfp4, Format::kTernary};
  const PageLayout layout = MakePageLayout(GetParam(), format);
  BackendPair pair({.shape = GetParam(),
                    .query_heads = GetParam().kv_heads,
                    .pool_bytes = uint64_t{40} * layout.page_bytes,
                    .open_groups = 2,
                    .rows_max = 16});
  CornerNumbers numbers(8);
  std::vector<PageOffset> pages;
  for (uint64_t i = 0; i < 40; ++i) pages.push_back((i * 7 % 40) * layout.page_bytes);
  SequenceView view{.formats = ClassFormats::Uniform(format), .open_group = 0};
  view.pages[Index(kR)] = pages;
  for (int group = 0; group < 30; ++group) AppendAndSeal(&pair, &numbers, &view, 16);
  // Each lane loses half a mask here and there: eight slots, not the same ones.
  std::mt19937_64 engine(9);
  for (int lane = 0; lane < GetParam().lanes(); ++lane) {
    for (int hole = 0; hole < 4; ++hole) {
      const PageOffset mask = pages[engine() % 30] + layout.masks_offset + 2 * lane + engine() % 2;
      pair.OnBoth([&](Backend& backend) { return backend.Zero(mask, 1); });
    }
  }
  for (const uint32_t count : {16u, 11u, 16u}) AppendAndSeal(&pair, &numbers, &view, count);
  pair.ExpectEqualBytes(0, 40 * layout.page_bytes);
}

INSTANTIATE_TEST_SUITE_P(Shapes, SealEquality,
                         ::testing::Values(CacheShape{.layers = 2, .kv_heads = 3, .head_dim = 64},
                                           CacheShape{.layers = 5, .kv_heads = 8, .head_dim = 128}),
                         [](const auto& info) {
                           return info.param.head_dim == 64 ? "HeadDim64" : "HeadDim128";
                         });

class SealRefusal : public GpuTest {
 protected:
  static constexpr CacheShape kShape = {.layers = 2, .kv_heads = 2, .head_dim = 64};
};

TEST_F(SealRefusal, IsToldOnceWithItsPlaceAndSparesTheCallsAroundIt) {
  const PageFormat format{Format::kFp8, Format::kFp8};
  const uint64_t bytes = MakePageLayout(kShape, format).page_bytes;
  BackendPair pair({.shape = kShape,
                    .query_heads = 2,
                    .pool_bytes = 4 * bytes,
                    .open_groups = 3,
                    .rows_max = 16});
  CornerNumbers numbers(10);
  std::vector<PageOffset> pages[3] = {{0}, {bytes}, {2 * bytes}};
  SequenceView views[3];
  for (uint32_t i = 0; i < 3; ++i) {
    views[i] = {.formats = ClassFormats::Uniform(format), .open_group = i};
    views[i].pages[Index(kR)] = pages[i];
    AppendAndSeal(&pair, &numbers, &views[i], i == 1 ? 10 : 2);
    views[i].open_count = 8;  // as if appended: what is there from before will do
  }
  const auto seal = [&](Backend& backend, std::vector<SealOrder> orders) {
    return backend.Seal(views, orders);
  };
  const SealOrder first{.sequence = 0, .thought = kR}, full{.sequence = 1, .thought = kR},
      last{.sequence = 2, .thought = kR};
  EXPECT_EQ(seal(pair.cpu(), {last}), absl::OkStatus());
  EXPECT_FALSE(seal(pair.cpu(), {first, full}).ok());
  EXPECT_EQ(seal(pair.gpu(), {last}), absl::OkStatus());
  EXPECT_EQ(seal(pair.gpu(), {first, full}), absl::OkStatus());  // it cannot know yet
  const absl::Status told = pair.gpu().Synchronize();
  EXPECT_EQ(told.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(told.message().find("sequence 1, class R"), std::string::npos) << told;
  EXPECT_NE(told.message().find("6 dead slots for 8 tokens"), std::string::npos) << told;
  EXPECT_EQ(pair.gpu().Synchronize(), absl::OkStatus());
  pair.ExpectEqualBytes(0, 4 * bytes);
  EXPECT_EQ(seal(pair.cpu(), {first}), absl::OkStatus());
  EXPECT_EQ(seal(pair.gpu(), {first}), absl::OkStatus());
  EXPECT_EQ(pair.gpu().Synchronize(), absl::OkStatus());
  pair.ExpectEqualBytes(0, 4 * bytes);
}

}  // namespace
}  // namespace palimpsest
