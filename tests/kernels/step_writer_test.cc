// SPDX-License-Identifier: Apache-2.0
// The tables of a step as kernels find them. That the plan in them is right is attend_plan_test's.
#include "kernels/cuda/step_writer.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/cuda/page_entries.h"

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
