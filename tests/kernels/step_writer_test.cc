// SPDX-License-Identifier: Apache-2.0
// The tables of a step as kernels find them. That the plan in them is right is attend_plan_test's.
#include "kernels/cuda/step_writer.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "kernels/cuda/page_entries.h"
#include "tests/kernels/dealt_blocks.h"

namespace palimpsest::cuda {
namespace {

class StepWriterTest : public testing::Test {
 protected:
  StepWriterTest()
      : pool_({.shape = {.layers = 2, .kv_heads = 2, .head_dim = 64},
               .query_heads = 4,
               .pool_bytes = 1 << 20,
               .open_groups = 8,
               .rows_max = 32}),
        writer_(pool_, WithBounds({.cta_count = 4, .warps_per_cta = 3}, pool_.shape(), 4, 32, 8)),
        block_(writer_.bytes_max()) {}

  absl::StatusOr<uint64_t> Write(const std::vector<StepRows>& rows) {
    return writer_.Write(pool_, views_, rows, block_.data());
  }
  StepArrays arrays() { return writer_.At(block_.data()); }

  // A sequence with pages of two classes.
  void Add(uint32_t open_group, uint32_t open_count, const std::vector<PageOffset>& reasoning,
           const std::vector<PageOffset>& transition) {
    SequenceView& view = views_.emplace_back();
    view.pages[Index(Thought::kReasoning)] = reasoning;
    view.pages[Index(Thought::kTransition)] = transition;
    view.formats = ClassFormats::R4E4T2();
    view.open_group = open_group;
    view.open_count = open_count;
    view.open_position = 16 * static_cast<uint32_t>(reasoning.size() + transition.size());
  }

  const PoolLayout pool_;
  StepWriter writer_;
  std::vector<uint8_t> block_;
  std::vector<SequenceView> views_;
  const std::vector<PageOffset> first_ = {0, 128 * 1024, 256 * 1024};
  const std::vector<PageOffset> second_ = {512 * 1024};
  const std::vector<PageOffset> third_ = {640 * 1024, 768 * 1024};
};

TEST_F(StepWriterTest, PagesLieClassAfterClassWithTheirFormats) {
  Add(5, 3, first_, second_);
  Add(2, 0, third_, {});
  ASSERT_TRUE(
      Write({{.sequence = 1, .row = 0, .count = 1}, {.sequence = 0, .row = 1, .count = 2}}).ok());
  // In the order of the rows.
  ASSERT_EQ(writer_.sequences().size(), 2u);
  EXPECT_EQ(arrays().sequences[0].open_group, 2u);
  EXPECT_EQ(arrays().sequences[0].page_count, 2u);
  const StepSequence& sequence = arrays().sequences[1];
  EXPECT_EQ(sequence.page_count, 4u);
  EXPECT_EQ(sequence.row, 1u);
  EXPECT_EQ(sequence.row_count, 2u);

  std::vector<PageEntry> expected;
  for (const Thought thought : kThoughts) {
    for (const PageOffset page : views_[0].pages[Index(thought)]) {
      const PageFormat format = views_[0].formats.of(thought);
      expected.push_back(page | static_cast<PageEntry>(FormatPair(format)));
    }
  }
  const PageEntry* const pages = arrays().pages + sequence.first_page;
  EXPECT_EQ(std::vector<PageEntry>(pages, pages + 4), expected);
}

TEST_F(StepWriterTest, EveryRowIsSomebodysOrSaysThatItIsNobodys) {
  Add(5, 3, first_, second_);
  ASSERT_TRUE(Write({{.sequence = 0, .row = 2, .count = 2}}).ok());
  EXPECT_EQ(arrays().header->row_count, 4u);
  EXPECT_EQ(arrays().rows[0].open_group, kNoRow);
  EXPECT_EQ(arrays().rows[1].open_group, kNoRow);
  for (uint32_t i = 0; i < 2; ++i) {
    const StepRow& row = arrays().rows[2 + i];
    EXPECT_EQ(row.open_group, 5u);
    EXPECT_EQ(row.slot, 3 + i);
    EXPECT_EQ(row.position, 64 + 3 + i);
    EXPECT_EQ(row.sequence, 0u);
  }
}

TEST_F(StepWriterTest, ItemsLieBehindThePagesInsideOfWhatIsCopied) {
  Add(5, 3, first_, second_);
  Add(2, 0, third_, {});
  const absl::StatusOr<uint64_t> bytes =
      Write({{.sequence = 0, .row = 0, .count = 1}, {.sequence = 1, .row = 1, .count = 1}});
  ASSERT_TRUE(bytes.ok());
  const StepArrays to = arrays();
  const auto* const pages_end = reinterpret_cast<const uint8_t*>(
      to.pages + to.sequences[1].first_page + to.sequences[1].page_count);
  constexpr uint32_t kWarps = 4 * 3;
  EXPECT_LT(to.first_item[0], to.first_item[kWarps]);
  EXPECT_GE(reinterpret_cast<const uint8_t*>(to.items + to.first_item[0]), pages_end);
  EXPECT_EQ(reinterpret_cast<const uint8_t*>(to.items + to.first_item[kWarps]),
            block_.data() + *bytes);
  EXPECT_LE(*bytes, writer_.bytes_max());
}

TEST_F(StepWriterTest, MorePagesThanThePoolHasAreRefused) {
  const std::vector<PageOffset> same(pool_.pages_max() + 1, 0);
  Add(5, 3, same, {});
  EXPECT_EQ(Write({{.sequence = 0, .row = 0, .count = 1}}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// Two layers of two heads, with shares.
class UnevenStepTest : public testing::Test {
 protected:
  UnevenStepTest() : writer_(pool_, geometry_), block_(writer_.bytes_max()) {}

  static BackendConfig Config() {
    auto book = std::make_shared<QueryCodebook>();
    book->lane_shares = {0.5f, 2.0f, 1.0f, 0.5f};
    return {.shape = {.layers = 2, .kv_heads = 2, .head_dim = 64},
            .query_heads = 4,
            .pool_bytes = 1 << 20,
            .open_groups = 8,
            .rows_max = 32,
            .codebook = book};
  }
  absl::StatusOr<uint64_t> Write() {
    std::vector<StepRows> rows;
    for (uint32_t i = 0; i < views_.size(); ++i) {
      rows.push_back({.sequence = i, .row = i, .count = 1});
    }
    return writer_.Write(pool_, views_, rows, block_.data());
  }
  // A sequence with pages_[first, first + count).
  void Add(uint32_t first, uint32_t count, const UnevenLanes& uneven) {
    SequenceView& view = views_.emplace_back();
    view.pages[Index(Thought::kReasoning)] = absl::MakeConstSpan(pages_).subspan(first, count);
    view.open_group = static_cast<uint32_t>(views_.size());
    view.uneven = uneven;
  }
  StepArrays arrays() { return writer_.At(block_.data()); }

  const PoolLayout pool_{Config()};
  const AttendGeometry geometry_ =
      WithBounds({.cta_count = 4, .warps_per_cta = 3}, pool_.shape(), 4, 32, 8);
  StepWriter writer_;
  std::vector<uint8_t> block_;
  std::vector<SequenceView> views_;
  const std::vector<PageOffset> pages_ = {0, 16384, 32768, 49152, 65536, 81920};
};

TEST_F(UnevenStepTest, KernelsFindEveryBlock) {
  DealtBlocks dealt(2, pool_.lane_ranks(), {2, 9, 4, 1});
  dealt.SetPages(5);
  Add(5, 1, {});
  Add(0, 5, dealt.View());
  const absl::StatusOr<uint64_t> bytes = Write();
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_LE(*bytes, writer_.bytes_max());
  EXPECT_EQ(arrays().header->layer_plans, 1u);
  EXPECT_FALSE(arrays().sequences[0].uneven());
  const StepSequence& sequence = arrays().sequences[1];
  ASSERT_TRUE(sequence.uneven());
  const uint32_t* const rounds = arrays().words + sequence.first_round;
  const uint32_t* const counts = arrays().words + sequence.first_count;
  EXPECT_LE(reinterpret_cast<const uint8_t*>(counts + 4), block_.data() + *bytes);
  for (uint32_t lane = 0; lane < 4; ++lane) {
    ASSERT_EQ(counts[lane], dealt.counts()[lane]);
    for (uint32_t block = 0; block < counts[lane]; ++block) {
      const BlockPlace place = PlaceOfBlock(dealt.View(), 4, lane, pool_.lane_ranks()[lane], block);
      // As page_stream.cuh does it.
      BlockPlace found{block, lane};
      if (block >= sequence.even_pages) {
        const uint32_t number = rounds[block - sequence.even_pages] + pool_.lane_ranks()[lane];
        found = {sequence.even_pages + number / 4, number % 4};
      }
      EXPECT_EQ(found.page, place.page);
      EXPECT_EQ(found.place, place.place);
      EXPECT_LT(found.page, sequence.page_count);
    }
  }
}

TEST_F(UnevenStepTest, StepsWithoutUnevenSequencesHaveOnePlan) {
  Add(5, 1, {});
  ASSERT_TRUE(Write().ok());
  EXPECT_EQ(arrays().header->layer_plans, 0u);
  EXPECT_EQ(writer_.due_layers().count, 0u);
  EXPECT_LT(arrays().first_item[0], arrays().first_item[geometry_.warp_count()]);
}

TEST_F(UnevenStepTest, LayersArePlannedWhenTheyAreDue) {
  DealtBlocks dealt(2, pool_.lane_ranks(), {2, 9, 4, 1});
  dealt.SetPages(4);
  Add(0, 4, dealt.View());
  ASSERT_TRUE(Write().ok());
  ASSERT_EQ(writer_.due_layers().count, 2u);
  std::vector<uint8_t> plans(writer_.layer_plans()->bytes());
  EXPECT_LE(writer_.layer_plans()->Plan(writer_.due_layers(), plans.data()),
            writer_.layer_plans()->shape().stride);
  ASSERT_TRUE(Write().ok());
  EXPECT_EQ(writer_.due_layers().count, 0u);
}

TEST_F(UnevenStepTest, MoreRoundsThanThereIsRoomForAreRefused) {
  const std::vector<uint32_t> rounds(1 << 20), counts = {1, 1 << 20, 1, 1};
  Add(0, 1, {.round_first = rounds, .block_counts = counts});
  EXPECT_EQ(Write().status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ClassPages, AClassThatSeveralOrdersNameIsPutOnce) {
  const std::vector<PageOffset> e = {128, 256}, r = {512, 1024, 2048};
  SequenceView views[2];
  for (SequenceView& view : views) view.formats = ClassFormats::R4E4T2();
  views[0].pages[Index(Thought::kExecution)] = e;
  views[1].pages[Index(Thought::kReasoning)] = r;
  std::vector<PageEntry> entries(5);
  ClassPages pages(views, entries.data());
  EXPECT_EQ(pages.Put(1, Thought::kReasoning), 0u);
  EXPECT_EQ(pages.Put(0, Thought::kExecution), 3u);
  EXPECT_EQ(pages.Put(1, Thought::kReasoning), 0u);
  EXPECT_EQ(pages.count(), 5u);
  const auto pair = static_cast<PageEntry>(FormatPair(views[0].formats.of(Thought::kExecution)));
  EXPECT_EQ(entries[0] & ~PageEntry{kFormatPairs - 1}, 512u);
  EXPECT_EQ(entries[4], 256u | pair);
}

}  // namespace
}  // namespace palimpsest::cuda
