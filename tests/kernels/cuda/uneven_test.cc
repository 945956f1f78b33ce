// SPDX-License-Identifier: Apache-2.0
// A lane of an uneven sequence holds, block by block, what it would hold in an even sequence that
// keeps in every lane what this one keeps. And a lane without room is told.
#include <array>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/kernels/cuda/random_sequence.h"
#include "tests/kernels/dealt_blocks.h"
#include "tests/kernels/sequence_model.h"

namespace palimpsest {
namespace {

constexpr Thought kR = Thought::kReasoning;
constexpr PageFormat kFormat = {Format::kInt4, Format::kInt4};

class UnevenLanesTest : public ::testing::TestWithParam<Selection> {
 protected:
  static constexpr CacheShape kShape = {
      .layers = 3, .kv_heads = 4, .head_dim = 128, .residue = true};
  static constexpr uint32_t kLanes = 12;
  static constexpr uint32_t kEvenPages = 2;
  static constexpr uint32_t kPrompt = kEvenPages * kGroupTokens;
  // With their outputs for so many queries, the lanes of all sequences need the scratch twice.
  static constexpr uint32_t kQueries = 1024;

  void SetUp() override {
    const absl::Status status = GpuStatus();
    if (!status.ok()) GTEST_SKIP() << status.message();
    std::vector<float> shares;
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      ranks_.push_back((lane * 7 + 3) % kLanes);
      shares.push_back((24.0f - 2.0f * static_cast<float>(ranks_[lane]) + 1.0f) / 14.0f);
      keeps_.push_back(200 - 16 * ranks_[lane]);
      blocks_max_.push_back((keeps_[lane] + 2 * kGroupTokens - 1) / kGroupTokens);
    }
    BackendConfig config = {.shape = kShape,
                            .query_heads = 16,
                            .pool_bytes = uint64_t{16} << 20,
                            .open_groups = kLanes + 1,
                            .rows_max = (kLanes + 1) * kGroupTokens};
    config.codebook = WithShares(*RandomCodebook(config, kQueries), shares);
    ASSERT_EQ(RankLanes(shares), ranks_);
    pool_bytes_ = config.pool_bytes;
    auto backend = NewCudaBackend(config, {});
    ASSERT_EQ(backend.status(), absl::OkStatus());
    backend_ = *std::move(backend);
    ASSERT_EQ(backend_->Zero(0, pool_bytes_), absl::OkStatus());
    MakeSequences();
  }

  // Sequence l is even and keeps what lane l of the last one keeps.
  void MakeSequences() {
    PageSource source(kShape, pool_bytes_);
    const uint32_t all = std::accumulate(blocks_max_.begin(), blocks_max_.end(), 0u);
    for (uint32_t s = 0; s <= kLanes; ++s) {
      const uint32_t pages =
          kEvenPages + (s < kLanes ? blocks_max_[s] : (all + kLanes - 1) / kLanes);
      for (uint32_t i = 0; i < pages; ++i) pages_[s].push_back(source.Take(kFormat));
      views_[s] = {.formats = ClassFormats::Uniform(kFormat), .open_group = s};
      views_[s].pages[Index(kR)] = pages_[s];
      ASSERT_EQ(backend_->ZeroOpenGroup(s), absl::OkStatus());
    }
    dealt_.emplace(kEvenPages, ranks_, blocks_max_);
    dealt_->SetPages(static_cast<uint32_t>(pages_[kLanes].size()));
    views_[kLanes].uneven = dealt_->View();
  }

  // The same 16 tokens to all sequences.
  void AppendAndSeal() {
    std::vector<StepRows> rows;
    std::vector<SealOrder> orders;
    for (uint32_t s = 0; s <= kLanes; ++s) {
      rows.push_back({.sequence = s, .row = s * kGroupTokens, .count = kGroupTokens});
      orders.push_back({.sequence = s, .thought = kR});
    }
    // Nothing is attended to: steps may as well see even sequences only.
    views_[kLanes].uneven = {};
    ASSERT_EQ(backend_->BeginStep(views_, rows), absl::OkStatus());
    for (int layer = 0; layer < kShape.layers; ++layer) {
      const auto draw = [&] {
        const std::vector<float> group =
            numbers_.Next(size_t{kGroupTokens} * kShape.kv_heads * kShape.head_dim);
        std::vector<float> rows_of_all;
        for (uint32_t s = 0; s <= kLanes; ++s) {
          rows_of_all.insert(rows_of_all.end(), group.begin(), group.end());
        }
        return ToBf16(rows_of_all);
      };
      const DeviceArray<uint16_t> k(draw()), v(draw());
      ASSERT_EQ(backend_->Append(layer, {.k = k.data(), .v = v.data()}), absl::OkStatus());
      ASSERT_EQ(backend_->Synchronize(), absl::OkStatus());
    }
    views_[kLanes].uneven = dealt_->View();
    for (SequenceView& view : views_) view.open_count = kGroupTokens;
    ASSERT_EQ(backend_->Seal(views_, orders), absl::OkStatus());
    ASSERT_EQ(backend_->Synchronize(), absl::OkStatus());
    for (SequenceView& view : views_) {
      view.open_count = 0;
      view.open_position += kGroupTokens;
    }
  }

  void Anneal() {
    std::vector<AnnealOrder> orders;
    for (uint32_t s = 0; s <= kLanes; ++s) {
      orders.push_back({.sequence = s,
                        .thought = kR,
                        .first_position = kPrompt,
                        .end_position = views_[s].open_position,
                        .keep = s < kLanes ? keeps_[s] : 112,
                        .selection = GetParam()});
    }
    orders.back().lane_keeps = keeps_;
    ASSERT_EQ(backend_->Anneal(views_, orders), absl::OkStatus());
    ASSERT_EQ(backend_->Synchronize(), absl::OkStatus());
  }

  // What is compared of a block: K and V, positions, the live mask.
  static std::vector<uint8_t> Block(const std::vector<uint8_t>& pool, PageOffset page,
                                    uint32_t place) {
    const PageLayout layout = MakePageLayout(kShape, kFormat);
    std::vector<uint8_t> bytes;
    const auto take = [&](size_t offset, size_t each) {
      const auto from = pool.begin() + static_cast<ptrdiff_t>(page + offset + place * each);
      bytes.insert(bytes.end(), from, from + static_cast<ptrdiff_t>(each));
    };
    take(0, layout.lane_bytes);
    take(layout.positions_offset, kSlotsPerPage * sizeof(uint32_t));
    take(layout.masks_offset, sizeof(uint16_t));
    return bytes;
  }
  std::vector<float> Residue(uint32_t open_group, uint32_t lane) const {
    return DeviceArray<float>::ReadDevice(
        backend_->pool().open_groups + open_group * OpenGroupBytes(kShape) +
            OpenGroupResidueOffset(kShape, static_cast<int>(lane) / kShape.kv_heads,
                                   static_cast<int>(lane) % kShape.kv_heads),
        2 * kShape.head_dim + 1);
  }

  void ExpectAlike() {
    const std::vector<uint8_t> pool = BackendPair::Bytes(*backend_, 0, pool_bytes_);
    const UnevenLanes uneven = dealt_->View();
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      ASSERT_EQ(uneven.block_counts[lane], kEvenPages + blocks_max_[lane]);
      for (uint32_t i = 0; i < uneven.block_counts[lane]; ++i) {
        const BlockPlace at = PlaceOfBlock(uneven, kLanes, lane, ranks_[lane], i);
        ASSERT_EQ(Block(pool, pages_[kLanes][at.page], at.place),
                  Block(pool, pages_[lane][i], lane))
            << "lane " << lane << " block " << i;
      }
      ASSERT_EQ(Residue(kLanes, lane), Residue(lane, lane)) << "lane " << lane;
    }
  }

  uint64_t pool_bytes_ = 0;
  std::vector<uint32_t> ranks_, keeps_, blocks_max_;
  std::unique_ptr<CudaBackend> backend_;
  Bf16Numbers numbers_{140};
  std::array<std::vector<PageOffset>, kLanes + 1> pages_;
  std::array<SequenceView, kLanes + 1> views_;
  std::optional<DealtBlocks> dealt_;
};

TEST_P(UnevenLanesTest, HoldWhatTheyWouldHoldInEvenSequences) {
  for (uint32_t group = 0; group < kEvenPages + 20; ++group) {
    SCOPED_TRACE(group);
    AppendAndSeal();
    if (HasFatalFailure()) return;
    if (group < kEvenPages) continue;
    Anneal();
    ExpectAlike();
    if (HasFatalFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Selectors, UnevenLanesTest,
    ::testing::Values(Selection{.selector = Selector::kAnticipated,
                                .recent = 8,
                                .residue = true,
                                .recent_beyond = 64},
                      Selection{.selector = Selector::kRandom, .recent = 8, .residue = true},
                      Selection{.selector = Selector::kMostRecent}),
    [](const auto& info) {
      switch (info.param.selector) {
        case Selector::kAnticipated:
          return "Anticipated";
        case Selector::kRandom:
          return "Random";
        default:
          return "MostRecent";
      }
    });

using UnevenSeal = GpuTest;

TEST_F(UnevenSeal, NamesTheLaneThatLacksRoom) {
  constexpr CacheShape kShape = {.layers = 2, .kv_heads = 2, .head_dim = 64};
  const uint64_t bytes = MakePageLayout(kShape, kFormat).page_bytes;
  BackendConfig config = {
      .shape = kShape, .query_heads = 2, .pool_bytes = 4 * bytes, .open_groups = 1, .rows_max = 16};
  // Lane 2 comes last: layer 1, KV head 0.
  config.codebook = WithShares(*RandomCodebook(config, 16), {1.5f, 1.0f, 0.5f, 1.0f});
  auto made = NewCudaBackend(config, {});
  ASSERT_EQ(made.status(), absl::OkStatus());
  CudaBackend& backend = **made;
  ASSERT_EQ(backend.Zero(0, config.pool_bytes), absl::OkStatus());
  const std::vector<PageOffset> pages = {2 * bytes, 0};
  DealtBlocks dealt(0, {0, 1, 3, 2}, {3, 2, 1, 2});
  dealt.SetPages(2);
  SequenceView view{.formats = ClassFormats::Uniform(kFormat), .open_group = 0};
  view.pages[Index(kR)] = pages;
  view.uneven = dealt.View();
  view.open_count = 12;  // as if appended: what is there will do
  const SealOrder order{.sequence = 0, .thought = kR};
  ASSERT_EQ(backend.Seal({&view, 1}, {&order, 1}), absl::OkStatus());
  ASSERT_EQ(backend.Synchronize(), absl::OkStatus());
  const auto before = BackendPair::Bytes(backend, 0, config.pool_bytes);
  ASSERT_EQ(backend.Seal({&view, 1}, {&order, 1}), absl::OkStatus());  // it cannot know yet
  const absl::Status told = backend.Synchronize();
  EXPECT_EQ(told.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(told.message().find("layer 1, KV head 0: 4 dead slots for 12"), std::string::npos)
      << told;
  EXPECT_EQ(BackendPair::Bytes(backend, 0, config.pool_bytes), before);
  view.open_count = 4;
  ASSERT_EQ(backend.Seal({&view, 1}, {&order, 1}), absl::OkStatus());
  EXPECT_EQ(backend.Synchronize(), absl::OkStatus());
}

}  // namespace
}  // namespace palimpsest
