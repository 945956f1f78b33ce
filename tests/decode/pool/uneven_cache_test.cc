// SPDX-License-Identifier: Apache-2.0
// A sequence cache whose lanes share a budget unevenly, over the CPU backend: what the cache says
// against what the pages hold.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "common/policy/lane_budgets.h"
#include "kernels/cpu/cpu_backend.h"
#include "services/decode/pool/sequence_cache.h"

namespace palimpsest {
namespace {

constexpr CacheShape kShape{.layers = 2, .kv_heads = 2, .head_dim = 32};
constexpr uint32_t kLanes = 4;
constexpr uint32_t kBudget = 48;
constexpr uint32_t kWindow = 16;

std::shared_ptr<const QueryCodebook> Codebook() {
  auto book = std::make_shared<QueryCodebook>();
  *book = {.layers = kShape.layers,
           .query_heads = kShape.kv_heads,
           .head_dim = kShape.head_dim,
           .queries = 16,
           .data = std::vector<uint16_t>(size_t{16} * kLanes * kShape.head_dim),
           .inverse_frequencies = std::vector<float>(kShape.head_dim / 2, 0.01f),
           .lane_shares = {0.25f, 1.0f, 2.0f, 0.75f}};
  return book;
}

class UnevenCache : public testing::Test {
 protected:
  void Make(uint32_t prompt, uint64_t pool_bytes = 4 << 20, bool reserve = true) {
    prompt_ = prompt;
    pool_ =
        std::make_unique<PagePool>(*PagePool::Create({.shape = kShape, .pool_bytes = pool_bytes}));
    backend_ = *NewCpuBackend({.shape = kShape,
                               .query_heads = kShape.kv_heads,
                               .pool_bytes = pool_->capacity_bytes(),
                               .open_groups = 1,
                               .codebook = book_},
                              1);
    const LaneSharing sharing{
        .shares = book_->lane_shares, .budget_tokens = kBudget, .window_tokens = kWindow};
    reserved_ = reserve ? LaneLedger(sharing, prompt).pages_max() : 0;
    const ClassFormats formats = ClassFormats::Uniform({Format::kInt4, Format::kInt4});
    ASSERT_TRUE(pool_->Reserve(formats.of(Thought::kReasoning), reserved_).ok());
    cache_ = std::make_unique<SequenceCache>(
        pool_.get(), backend_.get(),
        SequenceCacheOptions{.formats = formats,
                             .prompt_tokens = prompt,
                             .reserved_pages = reserved_,
                             .selection = {.selector = Selector::kMostRecent, .by_share = true},
                             .sharing = sharing});
    live_.assign(kLanes, 0);
  }

  // A group of tokens; the first ones while there is a prompt.
  absl::Status AddGroup() {
    std::vector<float> k(kShape.kv_heads * kShape.head_dim, 0.5f);
    while (cache_->open_count() < kGroupTokens) {
      const SequenceView view = cache_->view();
      const StepRows rows{.sequence = 0, .row = 0, .count = 1};
      EXPECT_TRUE(backend_->BeginStep({&view, 1}, {&rows, 1}).ok());
      for (int layer = 0; layer < kShape.layers; ++layer) {
        EXPECT_TRUE(backend_->Append(layer, {.k = k.data(), .v = k.data()}).ok());
      }
      cache_->CommitAppend(1);
    }
    const auto order = cache_->PlanSeal(Thought::kReasoning, 0);
    if (!order.ok()) return order.status();
    const SequenceView view = cache_->view();
    EXPECT_EQ(backend_->Seal({&view, 1}, {&*order, 1}), absl::OkStatus());
    for (const SealedTokens& run : cache_->CommitSeal(Thought::kReasoning, !generated_)) {
      if (run.pinned) continue;
      generated_ = true;
      for (uint32_t& live : live_) live += run.token_count;
    }
    return absl::OkStatus();
  }

  // Returns whether the backend was asked.
  bool AnnealTo(uint32_t keep) {
    const Anneal anneal{.first_position = prompt_, .keep = keep};
    const auto order = cache_->PlanAnneal(anneal, {.selector = Selector::kMostRecent}, 0);
    EXPECT_TRUE(order.ok()) << order.status();
    const std::vector<uint32_t> keeps = LaneBudgets(book_->lane_shares, keep);
    EXPECT_EQ(std::vector<uint32_t>(order->lane_keeps.begin(), order->lane_keeps.end()), keeps);
    EXPECT_EQ(order->keep, keep);
    const bool asked = cache_->Lowers(anneal);
    const SequenceView view = cache_->view();
    if (asked) {
      EXPECT_EQ(backend_->Anneal({&view, 1}, {&*order, 1}), absl::OkStatus());
    }
    const uint32_t before = cache_->live_tokens();
    const auto evicted = cache_->CommitAnneal(anneal);
    EXPECT_TRUE(evicted.ok());
    EXPECT_EQ(before - cache_->live_tokens(), *evicted);
    for (uint32_t i = 0; i < kLanes; ++i) live_[i] = std::min(live_[i], keeps[i]);
    return asked;
  }

  // Walks every lane's blocks: the whole prompt and its newest tokens are live in them, no more.
  void ExpectDeviceAgrees() {
    const SequenceView view = cache_->view();
    const PageLayout& layout = pool_->layout(view.formats.of(Thought::kReasoning));
    std::vector<std::vector<uint8_t>> pages;
    for (const PageOffset offset : view.pages[Index(Thought::kReasoning)]) {
      pages.emplace_back(layout.page_bytes);
      ASSERT_TRUE(backend_->Read(offset, absl::MakeSpan(pages.back())).ok());
    }
    const std::vector<uint32_t> ranks = RankLanes(book_->lane_shares);
    uint32_t fewest_dead = ~0u;
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      std::vector<uint32_t> positions;
      for (uint32_t block = 0; block < view.uneven.block_counts[lane]; ++block) {
        const BlockPlace at = PlaceOfBlock(view.uneven, kLanes, lane, ranks[lane], block);
        const int layer = static_cast<int>(at.place) / kShape.kv_heads;
        const int head = static_cast<int>(at.place) % kShape.kv_heads;
        const std::vector<uint8_t>& page = pages[at.page];
        uint16_t mask;
        std::memcpy(&mask, &page[layout.MaskOffset(layer, head)], sizeof mask);
        for (int slot = 0; slot < kSlotsPerPage; ++slot) {
          if ((mask >> slot & 1) == 0) continue;
          uint32_t position;
          std::memcpy(&position, &page[layout.PositionsOffset(layer, head) + 4 * slot], 4);
          positions.push_back(position);
        }
      }
      std::sort(positions.begin(), positions.end());
      const uint32_t sealed = cache_->state().sealed_tokens();
      std::vector<uint32_t> expected(std::min(prompt_, sealed));
      std::iota(expected.begin(), expected.end(), 0);
      for (uint32_t i = live_[lane]; i > 0; --i) expected.push_back(sealed - i);
      EXPECT_EQ(positions, expected) << "lane " << lane;
      fewest_dead = std::min<uint32_t>(
          fewest_dead, view.uneven.block_counts[lane] * kSlotsPerPage - positions.size());
    }
    EXPECT_EQ(cache_->DeadSlots(Thought::kReasoning), fewest_dead);
    const uint32_t mean = (std::accumulate(live_.begin(), live_.end(), 0u) + kLanes - 1) / kLanes;
    EXPECT_EQ(cache_->state().live_tokens(), mean);
    EXPECT_EQ(cache_->live_tokens(), mean + cache_->state().pinned_tokens() + cache_->open_count());
    // Besides what an even one holds: rounds; blocks, ranks, tokens and budgets of lanes.
    const uint64_t tables = 4 * (view.uneven.round_first.size() + 4 * kLanes);
    EXPECT_EQ(cache_->footprint_bytes(),
              pages.size() * (layout.page_bytes + sizeof(PageOffset)) + OpenGroupBytes(kShape) +
                  cache_->state().segments.size() * sizeof(Segment) + tables);
    EXPECT_EQ(pool_->usage().page_bytes, pages.size() * layout.page_bytes);
    EXPECT_LE(pages.size(), LaneLedger({.shares = book_->lane_shares,
                                        .budget_tokens = kBudget,
                                        .window_tokens = kWindow},
                                       prompt_)
                                .pages_max());
  }

  const std::shared_ptr<const QueryCodebook> book_ = Codebook();
  uint32_t prompt_ = 0, reserved_ = 0;
  bool generated_ = false;
  std::vector<uint32_t> live_;  // of each lane, the prompt's apart
  std::unique_ptr<PagePool> pool_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<SequenceCache> cache_;
};

TEST_F(UnevenCache, HoldsInEveryLaneWhatItsShareAllows) {
  for (const uint32_t prompt : {1u, 16u, 37u}) {
    SCOPED_TRACE(prompt);
    generated_ = false;
    Make(prompt);
    uint32_t asked = 0;
    for (uint32_t group = 0; group < 20; ++group) {
      ASSERT_TRUE(AddGroup().ok());
      ExpectDeviceAgrees();
      if (generated_) asked += AnnealTo(kBudget);
      ExpectDeviceAgrees();
      if (HasFailure()) return;
    }
    EXPECT_EQ(live_, LaneBudgets(book_->lane_shares, kBudget));
    EXPECT_EQ(cache_->state().live_tokens(), kBudget);
    EXPECT_GT(asked, 14u);
    EXPECT_LT(asked, 20u) << "no lane had more than its own at first";
    ASSERT_TRUE(cache_->Release().ok());
    EXPECT_EQ(pool_->usage().page_bytes, 0u);
    cache_.reset();
  }
}

TEST_F(UnevenCache, PlansOfOtherBudgetsAndReliefAreCarriedOut) {
  Make(20);
  for (int group = 0; group < 4; ++group) ASSERT_TRUE(AddGroup().ok());
  AnnealTo(20);
  ExpectDeviceAgrees();
  ASSERT_TRUE(AddGroup().ok());
  EXPECT_FALSE(AnnealTo(1000));
  ExpectDeviceAgrees();
  AnnealTo(0);
  ExpectDeviceAgrees();
  EXPECT_EQ(cache_->live_tokens(), 20u);
  for (int group = 0; group < 2; ++group) ASSERT_TRUE(AddGroup().ok());
  AnnealTo(9);
  ExpectDeviceAgrees();
}

TEST_F(UnevenCache, ALaneThatMayHoldNoMoreRefusesTheGroupUntilItIsAnnealed) {
  Make(16);
  absl::Status status;
  uint32_t groups = 0;
  for (; status.ok(); ++groups) status = AddGroup();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  // The least share keeps 24 and a window: three blocks behind the prompt's. Then there is no more.
  EXPECT_EQ(groups, 1u + 3 + 1);
  ExpectDeviceAgrees();
  AnnealTo(kBudget);
  ExpectDeviceAgrees();
  EXPECT_TRUE(AddGroup().ok());
  ExpectDeviceAgrees();
}

TEST_F(UnevenCache, PagesFoundBeforeThePoolWasEmptyAreKept) {
  Make(1, ChooseFrameBytes(kShape), /*reserve=*/false);
  // Somebody else has all but a page.
  const PageFormat format = cache_->formats().of(Thought::kReasoning);
  std::vector<PageOffset> others;
  for (auto page = pool_->Allocate(format, false); page.ok();
       page = pool_->Allocate(format, false)) {
    others.push_back(*page);
  }
  pool_->Free(format, others.back());
  others.pop_back();
  ASSERT_TRUE(AddGroup().ok());
  EXPECT_EQ(AddGroup().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(cache_->open_count(), static_cast<uint32_t>(kGroupTokens));
  ASSERT_TRUE(cache_->Release().ok());
  for (const PageOffset page : others) pool_->Free(format, page);
  EXPECT_EQ(pool_->usage().page_bytes, 0u);
}

}  // namespace
}  // namespace palimpsest
