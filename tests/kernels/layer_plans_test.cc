// SPDX-License-Identifier: Apache-2.0
// Plans that outlive a step: whatever sequences do in between, every block of every lane is in one
// item, in order; and plans made anew are balanced.
#include "kernels/cuda/layer_plans.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/dealt_blocks.h"

namespace palimpsest::cuda {
namespace {

constexpr CacheShape kShape = {.layers = 4, .kv_heads = 3, .head_dim = 128};
constexpr int kQueryHeads = 12;
constexpr uint32_t kLanes = 12;
constexpr uint32_t kLaneBytes = 2304;

struct Sequence {
  std::optional<DealtBlocks> blocks;  // none: even
  SequencePages pages = {};
  uint32_t rows = 1;
};

class Layers {
 public:
  explicit Layers(uint32_t cta_count = 20)
      : geometry_(WithBounds({.cta_count = cta_count, .warps_per_cta = 12, .queries_max = 8},
                             kShape, kQueryHeads, 256, 64)),
        plans_(geometry_, kShape, kQueryHeads, 64),
        device_(plans_.bytes()),
        staged_(plans_.bytes()) {}

  // Takes a step, as step_staging.cc does. Returns how many layers were planned.
  uint32_t Step(const std::vector<Sequence>& sequences) {
    steps_.clear();
    pages_.clear();
    counts_.clear();
    for (const Sequence& sequence : sequences) {
      SequencePages& pages = pages_.emplace_back(sequence.pages);
      if (sequence.blocks.has_value()) pages.runs[1] = {sequence.blocks->pages(), kLaneBytes};
      uint32_t count = 0;
      for (const PageRun& run : pages.runs) count += run.page_count;
      steps_.push_back({.first_page = 1000, .page_count = count, .row_count = sequence.rows});
      counts_.push_back(sequence.blocks.has_value() ? sequence.blocks->counts().data() : nullptr);
    }
    const LayerRange due = plans_.Follow(steps_, pages_, counts_);
    std::fill(staged_.begin(), staged_.end(), 0xee);
    const uint64_t bytes = plans_.Plan(due, staged_.data());
    EXPECT_LE(bytes, plans_.shape().stride);
    for (uint32_t layer = due.first; layer < due.first + due.count; ++layer) {
      const uint64_t at = layer * plans_.shape().stride;
      std::copy_n(staged_.begin() + static_cast<ptrdiff_t>(at), bytes,
                  device_.begin() + static_cast<ptrdiff_t>(at));
    }
    return due.count;
  }

  const uint32_t* first_item(uint32_t layer) const {
    return reinterpret_cast<const uint32_t*>(device_.data() + layer * plans_.shape().stride);
  }
  // As the kernel sees it: the open group's item ends where its lane does.
  AttendItem item(uint32_t layer, uint32_t index) const {
    const uint8_t* const items =
        device_.data() + layer * plans_.shape().stride + plans_.shape().items_offset;
    AttendItem item = reinterpret_cast<const AttendItem*>(items)[index];
    if (item.with_open_group != 0) {
      item.page_count = Blocks(item.row, layer, item.kv_head) - item.first_page;
    }
    return item;
  }

  void ExpectEveryBlockOnce() const {
    for (uint32_t layer = 0; layer < static_cast<uint32_t>(kShape.layers); ++layer) {
      SCOPED_TRACE(layer);
      ExpectLayer(layer);
    }
  }

  // The most blocks, an open group counting as 3, of a layer's CTA over the mean.
  double Imbalance(uint32_t layer) const {
    uint64_t most = 0, total = 0;
    for (uint32_t at = 0; at < geometry_.warp_count(); at += geometry_.warps_per_cta) {
      uint64_t blocks = 0;
      for (uint32_t i = first_item(layer)[at]; i < first_item(layer)[at + 12]; ++i) {
        blocks += item(layer, i).page_count + (item(layer, i).with_open_group != 0 ? 3 : 0);
      }
      most = std::max(most, blocks);
      total += blocks;
    }
    return static_cast<double>(most) * geometry_.cta_count / static_cast<double>(total);
  }

 private:
  uint32_t Blocks(uint32_t sequence, uint32_t layer, uint32_t head) const {
    if (counts_[sequence] == nullptr) return steps_[sequence].page_count;
    return counts_[sequence][layer * static_cast<uint32_t>(kShape.kv_heads) + head];
  }

  void ExpectLayer(uint32_t layer) const {
    const uint32_t* const first = first_item(layer);
    ASSERT_EQ(first[0], 0u);
    ASSERT_TRUE(std::is_sorted(first, first + geometry_.warp_count() + 1));
    ASSERT_LE(first[geometry_.warp_count()], geometry_.items_max);
    std::vector<AttendItem> items;
    for (uint32_t i = 0; i < first[geometry_.warp_count()]; ++i) items.push_back(item(layer, i));
    std::stable_sort(items.begin(), items.end(), [](const AttendItem& a, const AttendItem& b) {
      return std::pair(a.pair, a.part) < std::pair(b.pair, b.part);
    });
    auto next = items.begin();
    uint32_t pair = 0;
    for (uint32_t s = 0; s < steps_.size(); ++s) {
      for (int head = 0; head < kShape.kv_heads; ++head) {
        for (uint32_t query = 0; query < steps_[s].row_count * 4; query += 8, ++pair) {
          uint32_t block = 0;
          bool open_group = false;
          for (; next != items.end() && next->pair == pair; ++next) {
            EXPECT_FALSE(open_group);
            EXPECT_EQ(next->row, s);
            EXPECT_EQ(next->row_count, steps_[s].row_count);
            EXPECT_EQ(next->kv_head, head);
            EXPECT_EQ(next->first_query, query);
            EXPECT_EQ(next->first_page, block);
            EXPECT_LE(next->first_part + next->part_count, geometry_.parts_max);
            for (const PageRun& run : pages_[s].runs) {
              if (run.page_count > 0) {
                EXPECT_GE(next->stage_bytes_16 * 16u, run.lane_bytes);
              }
            }
            block += next->page_count;
            open_group = next->with_open_group != 0;
          }
          EXPECT_EQ(block, Blocks(s, layer, static_cast<uint32_t>(head)));
          EXPECT_TRUE(open_group);
        }
      }
    }
    EXPECT_TRUE(next == items.end());
    EXPECT_LE(pair, geometry_.pairs_max);
  }

  const AttendGeometry geometry_;
  LayerPlans plans_;
  std::vector<uint8_t> device_, staged_;
  std::vector<StepSequence> steps_;
  std::vector<SequencePages> pages_;
  std::vector<const uint32_t*> counts_;
};

class LayerPlansTest : public testing::Test {
 protected:
  LayerPlansTest() : ranks_(kLanes) {
    std::iota(ranks_.begin(), ranks_.end(), 0);
    std::shuffle(ranks_.begin(), ranks_.end(), random_);
  }

  // Of shares between a quarter and 3.
  Sequence Uneven(uint32_t mean_blocks, uint32_t even_pages = 0) {
    std::vector<uint32_t> by_rank(kLanes), blocks(kLanes);
    for (uint32_t& of_rank : by_rank) of_rank = 1 + mean_blocks * (25 + random_() % 275) / 100;
    std::sort(by_rank.rbegin(), by_rank.rend());
    for (uint32_t lane = 0; lane < kLanes; ++lane) blocks[lane] = by_rank[ranks_[lane]];
    DealtBlocks dealt(even_pages, ranks_, blocks);
    dealt.SetPages(even_pages);
    return {.blocks = std::move(dealt)};
  }
  Sequence Even() {
    Sequence sequence;
    for (PageRun& run : sequence.pages.runs) {
      run = {static_cast<uint32_t>(random_() % 40),
             16 * static_cast<uint32_t>(30 + random_() % 400)};
    }
    return sequence;
  }
  static void Fill(Sequence* sequence) {
    sequence->blocks->SetPages(sequence->blocks->pages_max());
  }

  std::mt19937 random_{1};
  std::vector<uint32_t> ranks_;
};

TEST_F(LayerPlansTest, WhateverSequencesDoEveryBlockIsInOneItem) {
  Layers layers;
  std::vector<Sequence> sequences;
  for (int step = 0; step < 3000; ++step) {
    SCOPED_TRACE(step);
    const uint32_t event = random_() % 100;
    if (sequences.empty() || (event < 3 && sequences.size() < 32)) {
      sequences.push_back(event == 0 ? Even() : Uneven(1 + random_() % 60, random_() % 8));
    } else if (event < 5) {
      sequences.erase(sequences.begin() + random_() % sequences.size());
    } else if (event < 8) {
      sequences[random_() % sequences.size()].rows = 1 + random_() % 16;
    } else if (event < 9) {
      Sequence& one = sequences[random_() % sequences.size()];
      if (one.blocks.has_value()) one.blocks->SetPages(one.blocks->View().even_pages);
    } else if (event < 60) {
      for (Sequence& one : sequences) {
        if (random_() % 4 != 0) continue;
        if (one.blocks.has_value()) {
          one.blocks->SetPages(std::min(one.blocks->pages() + 1, one.blocks->pages_max()));
        } else {
          one.pages.runs[random_() % kThoughtCount].page_count += random_() % 3;
        }
      }
    }
    layers.Step(sequences);
    ASSERT_NO_FATAL_FAILURE(layers.ExpectEveryBlockOnce());
    if (HasFailure()) return;
  }
}

TEST_F(LayerPlansTest, WhereNothingChangesNothingIsPlanned) {
  Layers layers;
  std::vector<Sequence> sequences = {Uneven(40), Uneven(30, 4), Even()};
  EXPECT_EQ(layers.Step(sequences), 4u);
  EXPECT_EQ(layers.Step(sequences), 0u);
  sequences[2].pages.runs[1].page_count += 1;  // bearable
  EXPECT_EQ(layers.Step(sequences), 0u);
  sequences[0].rows = 2;
  EXPECT_EQ(layers.Step(sequences), 4u);
  EXPECT_EQ(layers.Step(sequences), 0u);
}

TEST_F(LayerPlansTest, AGrowingSequenceHasOneLayerPlannedAtATime) {
  Layers layers;
  std::vector<Sequence> sequences(20);
  for (Sequence& sequence : sequences) {
    sequence = Uneven(60);
    Fill(&sequence);
  }
  sequences[7].blocks->SetPages(1);  // its first changes its formats
  EXPECT_EQ(layers.Step(sequences), 4u);
  uint32_t planned = 0, steps = 0;
  DealtBlocks& grows = *sequences[7].blocks;
  for (uint32_t pages = 2; pages <= grows.pages_max(); ++pages) {
    grows.SetPages(pages);
    for (int i = 0; i < 16; ++i, ++steps) {
      const uint32_t now = layers.Step(sequences);
      EXPECT_LE(now, 1u);
      planned += now;
    }
    ASSERT_NO_FATAL_FAILURE(layers.ExpectEveryBlockOnce());
  }
  EXPECT_GT(planned, 8u);
  EXPECT_LT(planned, steps / 4);
}

TEST_F(LayerPlansTest, NoCtaHasMuchMoreThanItsShareInAnyLayer) {
  for (const uint32_t batch : {16u, 40u, 64u}) {
    Layers layers;
    std::vector<Sequence> sequences(batch);
    for (Sequence& sequence : sequences) {
      sequence = Uneven(64, 3);
      Fill(&sequence);
    }
    layers.Step(sequences);
    layers.ExpectEveryBlockOnce();
    for (uint32_t layer = 0; layer < 4; ++layer) EXPECT_LT(layers.Imbalance(layer), 1.05);
  }
}

TEST(AttendPlanOfHeads, HeadsOfEqualNumbersAreCutLikeAnEvenSequence) {
  const AttendGeometry geometry =
      WithBounds({.cta_count = 20, .warps_per_cta = 12, .queries_max = 8}, kShape, 12, 64, 8);
  AttendPlanner planner(geometry, kShape, kQueryHeads);
  const uint32_t heads[] = {70, 70, 70};
  SequencePages pages[2] = {{.runs = {{}, {70, kLaneBytes}, {}}},
                            {.runs = {{5, 4096}, {31, 2304}, {9, 1280}}}};
  const StepSequence sequences[] = {{.page_count = 70, .row_count = 1},
                                    {.first_page = 70, .page_count = 45, .row = 1, .row_count = 3}};
  std::vector<AttendItem> items[2];
  for (std::vector<AttendItem>& of_plan : items) {
    of_plan.resize(geometry.items_max);
    std::vector<uint32_t> first_item(geometry.warp_count() + 1);
    of_plan.resize(
        planner.Plan(sequences, pages, {.items = of_plan.data(), .first_item = first_item.data()})
            .item_count);
    pages[0].head_blocks = heads;
  }
  ASSERT_EQ(items[0].size(), items[1].size());
  for (size_t i = 0; i < items[0].size(); ++i) {
    EXPECT_EQ(items[0][i].first_page, items[1][i].first_page);
    EXPECT_EQ(items[0][i].page_count, items[1][i].page_count);
    EXPECT_EQ(items[0][i].pair, items[1][i].pair);
    EXPECT_EQ(items[0][i].team_size, items[1][i].team_size);
  }
}

}  // namespace
}  // namespace palimpsest::cuda
