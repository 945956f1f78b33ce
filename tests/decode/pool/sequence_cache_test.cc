// SPDX-License-Identifier: Apache-2.0
#include "services/decode/pool/sequence_cache.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "kernels/cpu/cpu_backend.h"

namespace palimpsest {
namespace {

constexpr CacheShape kShape{.layers = 2, .kv_heads = 2, .head_dim = 32};
constexpr uint32_t kPrompt = 9;

class SequenceCacheTest : public testing::Test {
 protected:
  void Make(ClassFormats formats, uint64_t pool_bytes = 4 << 20, uint32_t reserved = 0) {
    pool_ =
        std::make_unique<PagePool>(*PagePool::Create({.shape = kShape, .pool_bytes = pool_bytes}));
    backend_ = *NewCpuBackend({.shape = kShape,
                               .query_heads = 2,
                               .pool_bytes = pool_->capacity_bytes(),
                               .open_groups = 4},
                              1);
    if (reserved > 0) {
      ASSERT_TRUE(pool_->Reserve(formats.of(Thought::kReasoning), reserved).ok());
    }
    cache_ = std::make_unique<SequenceCache>(pool_.get(), backend_.get(),
                                             SequenceCacheOptions{.formats = formats,
                                                                  .open_group = 1,
                                                                  .prompt_tokens = kPrompt,
                                                                  .reserved_pages = reserved});
  }

  // Appends one token with random keys and values in every lane.
  void Append() {
    std::normal_distribution<float> normal;
    std::vector<float> k(kShape.kv_heads * kShape.head_dim), v(k.size());
    const SequenceView view = cache_->view();
    const StepRows rows{.sequence = 0, .row = 0, .count = 1};
    ASSERT_TRUE(backend_->BeginStep({&view, 1}, {&rows, 1}).ok());
    for (int layer = 0; layer < kShape.layers; ++layer) {
      for (float& x : k) x = normal(random_);
      for (float& x : v) x = normal(random_);
      const NewTokens tokens{.k = k.data(), .v = v.data()};
      ASSERT_TRUE(backend_->Append(layer, tokens).ok());
    }
    cache_->CommitAppend(1);
  }

  void Seal(Thought thought, bool starts_window) {
    const auto order = cache_->PlanSeal(thought, 0);
    ASSERT_TRUE(order.ok()) << order.status();
    const SequenceView view = cache_->view();
    ASSERT_TRUE(backend_->Seal({&view, 1}, {&*order, 1}).ok());
    cache_->CommitSeal(thought, starts_window);
  }

  uint64_t Pages(Thought thought) const {
    return cache_->view().pages[Index(cache_->PagesOf(thought))].size();
  }

  void Anneal(uint32_t first_position, uint32_t keep) {
    const palimpsest::Anneal anneal{.first_position = first_position, .keep = keep, .demotions = 1};
    const auto order = cache_->PlanAnneal(anneal, Selection{Selector::kKMeansMedoids}, 0);
    ASSERT_TRUE(order.ok()) << order.status();
    const SequenceView view = cache_->view();
    ASSERT_TRUE(backend_->Anneal({&view, 1}, {&*order, 1}).ok());
    ASSERT_TRUE(cache_->CommitAnneal(anneal).ok());
  }

  // Reads every page of the sequence and counts live slots and bytes: what the device really holds.
  void ExpectDeviceAgrees() {
    const SequenceView view = cache_->view();
    uint64_t bytes = 0;
    std::vector<uint32_t> live(kShape.lanes(), 0);
    for (const Thought thought : kThoughts) {
      const PageLayout& layout = pool_->layout(view.formats.of(thought));
      for (const PageOffset offset : view.pages[Index(thought)]) {
        std::vector<uint8_t> page(layout.page_bytes);
        ASSERT_TRUE(backend_->Read(offset, absl::MakeSpan(page)).ok());
        bytes += page.size() + sizeof(PageOffset);
        for (int layer = 0; layer < kShape.layers; ++layer) {
          for (int head = 0; head < kShape.kv_heads; ++head) {
            uint16_t mask;
            std::memcpy(&mask, &page[layout.MaskOffset(layer, head)], sizeof mask);
            live[layer * kShape.kv_heads + head] += __builtin_popcount(mask);
          }
        }
      }
    }
    for (const uint32_t count : live) {
      EXPECT_EQ(count + view.open_count, cache_->live_tokens());
    }
    bytes += OpenGroupBytes(kShape) + cache_->state().segments.size() * sizeof(Segment);
    EXPECT_EQ(cache_->footprint_bytes(), bytes);
    uint64_t page_bytes = 0;
    for (const Thought thought : kThoughts) {
      page_bytes +=
          view.pages[Index(thought)].size() * pool_->layout(view.formats.of(thought)).page_bytes;
    }
    EXPECT_EQ(pool_->usage().page_bytes, page_bytes);
  }

  std::mt19937 random_{3};
  std::unique_ptr<PagePool> pool_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<SequenceCache> cache_;
};

TEST_F(SequenceCacheTest, AccountedBytesEqualThoseFoundByWalkingThePoolAtEveryStep) {
  for (const uint32_t seed : {1u, 2u, 3u, 4u}) {
    Make(ClassFormats::R4E4T2());
    random_.seed(seed);
    Thought label = Thought::kReasoning;
    bool starts_window = true;
    for (int token = 0; token < 400; ++token) {
      Append();
      if (cache_->open_count() < kGroupTokens) {
        ExpectDeviceAgrees();
        continue;
      }
      Seal(label, starts_window);
      starts_window = random_() % 3 == 0;
      if (starts_window) label = kThoughts[random_() % kThoughtCount];
      const auto& segments = cache_->state().segments;
      const Segment& victim = segments[random_() % segments.size()];
      if (!victim.pinned && random_() % 2 == 0) {
        Anneal(victim.first_position, victim.live_count - random_() % (victim.live_count + 1));
      }
      ExpectDeviceAgrees();
    }
    ASSERT_TRUE(cache_->Release().ok());
    EXPECT_EQ(pool_->usage().page_bytes, 0u);
    std::vector<uint8_t> all(pool_->capacity_bytes());
    ASSERT_TRUE(backend_->Read(0, absl::MakeSpan(all)).ok());
    EXPECT_EQ(std::count(all.begin(), all.end(), 0), static_cast<int64_t>(all.size()))
        << "released pages are not zero";
    cache_.reset();
  }
}

TEST_F(SequenceCacheTest, AGroupThatHoldsThePromptsEndIsReportedAsTwoRuns) {
  Make(ClassFormats::R4E4T2());
  for (int i = 0; i < kGroupTokens; ++i) Append();
  const auto order = cache_->PlanSeal(Thought::kReasoning, 0);
  ASSERT_TRUE(order.ok());
  const SequenceView view = cache_->view();
  ASSERT_TRUE(backend_->Seal({&view, 1}, {&*order, 1}).ok());
  const std::vector<SealedTokens> runs = cache_->CommitSeal(Thought::kReasoning, true);
  ASSERT_EQ(runs.size(), 2u);
  EXPECT_EQ(runs[0], (SealedTokens{kPrompt, Thought::kReasoning, true, false}));
  EXPECT_EQ(runs[1], (SealedTokens{kGroupTokens - kPrompt, Thought::kReasoning, false, true}));
  EXPECT_EQ(cache_->state().pinned_tokens(), kPrompt);
}

TEST_F(SequenceCacheTest, FreedSlotsAreFilledBeforeAPageIsTaken) {
  Make(ClassFormats::R4E4T2());
  for (int i = 0; i < 6 * kGroupTokens; ++i) {
    Append();
    if (cache_->open_count() == kGroupTokens) Seal(Thought::kReasoning, i == kGroupTokens - 1);
  }
  const uint64_t pages_before = Pages(Thought::kReasoning);
  EXPECT_EQ(pages_before, 6u);
  Anneal(kPrompt, 20);  // 87 generated tokens, 67 slots freed
  for (int i = 0; i < 4 * kGroupTokens; ++i) {
    Append();
    if (cache_->open_count() == kGroupTokens) Seal(Thought::kReasoning, false);
    ExpectDeviceAgrees();
  }
  EXPECT_EQ(Pages(Thought::kReasoning), pages_before);
}

TEST_F(SequenceCacheTest, ClassesOfOneFormatFillEachOthersFreedSlots) {
  Make(ClassFormats::R4E4T2());
  for (int i = 0; i < 6 * kGroupTokens; ++i) {
    Append();
    if (cache_->open_count() == kGroupTokens) Seal(Thought::kReasoning, i == kGroupTokens - 1);
  }
  Anneal(kPrompt, 20);
  const uint64_t pages_before = Pages(Thought::kReasoning);
  for (int i = 0; i < 4 * kGroupTokens; ++i) {
    Append();
    if (cache_->open_count() == kGroupTokens) Seal(Thought::kExecution, i == kGroupTokens - 1);
    ExpectDeviceAgrees();
  }
  EXPECT_EQ(Pages(Thought::kReasoning), pages_before);
  EXPECT_EQ(cache_->PagesOf(Thought::kReasoning), cache_->PagesOf(Thought::kExecution));
  EXPECT_NE(cache_->PagesOf(Thought::kReasoning), cache_->PagesOf(Thought::kTransition));
  Anneal(6 * kGroupTokens, 8);  // the segment of class E, out of the pages it shares
  ExpectDeviceAgrees();
}

TEST_F(SequenceCacheTest, AClassLeftWithoutALiveTokenGivesItsPagesBack) {
  Make(ClassFormats::R4E4T2());
  for (int i = 0; i < 2 * kGroupTokens; ++i) {
    Append();
    if (cache_->open_count() == kGroupTokens) {
      Seal(i < kGroupTokens ? Thought::kReasoning : Thought::kTransition, i >= kGroupTokens);
    }
  }
  EXPECT_EQ(cache_->view().pages[Index(Thought::kTransition)].size(), 1u);
  Anneal(kGroupTokens, 0);
  EXPECT_TRUE(cache_->view().pages[Index(Thought::kTransition)].empty());
  ExpectDeviceAgrees();
}

TEST_F(SequenceCacheTest, ThePromptIsNeverAnnealed) {
  Make(ClassFormats::R4E4T2());
  for (int i = 0; i < kGroupTokens; ++i) Append();
  Seal(Thought::kReasoning, true);
  const auto order = cache_->PlanAnneal({.first_position = 0, .keep = 0, .demotions = 1},
                                        {Selector::kKMeansMedoids}, 0);
  EXPECT_EQ(order.status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(SequenceCacheTest, AFullPoolRefusesASealAndChangesNothing) {
  Make(ClassFormats::Uniform({Format::kBf16, Format::kBf16}), ChooseFrameBytes(kShape));
  absl::Status status;
  while (status.ok()) {
    for (int i = 0; i < kGroupTokens; ++i) Append();
    status = cache_->PlanSeal(Thought::kReasoning, 0).status();
    if (status.ok()) Seal(Thought::kReasoning, false);
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(cache_->open_count(), static_cast<uint32_t>(kGroupTokens));
  ExpectDeviceAgrees();
}

}  // namespace
}  // namespace palimpsest
