// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/layer_plans.h"

#include <algorithm>
#include <cstring>

#include "common/base/check.h"
#include "kernels/cuda/array_packer.h"

namespace palimpsest::cuda {
namespace {

// A pair may grow by this part of a warp's share before its layer is planned anew, when that
// layer's turn comes; and by so many times as much before all layers are.
constexpr uint32_t kShareOfGrowth = 16;
constexpr uint32_t kGrowthForAll = 8;

uint32_t TotalPages(const SequencePages& pages) {
  uint32_t count = 0;
  for (const PageRun& run : pages.runs) count += run.page_count;
  return count;
}

// Whether items that were made of `before` have room in their rings for pages of `now`.
bool SameFormats(const SequencePages& before, const SequencePages& now) {
  for (int i = 0; i < kThoughtCount; ++i) {
    const PageRun &a = before.runs[i], &b = now.runs[i];
    if ((a.page_count > 0) != (b.page_count > 0)) return false;
    if (a.page_count > 0 && a.lane_bytes != b.lane_bytes) return false;
  }
  return true;
}

}  // namespace

LayerPlans::LayerPlans(const AttendGeometry& geometry, const CacheShape& shape, int query_heads,
                       uint32_t sequences_max)
    : layers_(static_cast<uint32_t>(shape.layers)),
      kv_heads_(static_cast<uint32_t>(shape.kv_heads)),
      warp_count_(geometry.warp_count()),
      planner_(geometry, shape, query_heads),
      growth_(layers_),
      bearable_growth_(layers_) {
  ArrayPacker packer;
  packer.Add<uint32_t>(warp_count_ + 1);
  shape_.items_offset = packer.Add<AttendItem>(geometry.items_max);
  shape_.stride = packer.bytes();
  sequences_.reserve(sequences_max);
  pages_.reserve(sequences_max);
  uneven_.reserve(sequences_max);
  counts_.reserve(uint64_t{sequences_max} * shape.lanes());
  planned_.reserve(uint64_t{sequences_max} * shape.lanes());
}

LayerRange LayerPlans::Follow(absl::Span<const StepSequence> sequences,
                              absl::Span<const SequencePages> pages,
                              absl::Span<const uint32_t* const> block_counts) {
  KV_CHECK(sequences.size() == pages.size() && sequences.size() == block_counts.size());
  bool holds = sequences.size() == sequences_.size();
  for (uint32_t i = 0; holds && i < sequences.size(); ++i) {
    holds = sequences[i].row_count == sequences_[i].row_count &&
            FollowOne(i, pages[i], block_counts[i]);
  }
  if (!holds) {
    Restart(sequences, pages, block_counts);
    return {.first = 0, .count = layers_};
  }
  LayerRange due;
  uint32_t most = 0;
  for (uint32_t layer = 0; layer < layers_; ++layer) {
    const uint32_t growth = growth_[layer], bearable = bearable_growth_[layer];
    if (growth / kGrowthForAll > bearable) return {.first = 0, .count = layers_};
    if (growth > std::max(bearable, most)) {
      most = growth;
      due = {.first = layer, .count = 1};
    }
  }
  return due;
}

bool LayerPlans::FollowOne(uint32_t index, const SequencePages& pages,
                           const uint32_t* block_counts) {
  const uint32_t lanes = layers_ * kv_heads_;
  uint32_t* const counts = counts_.data() + uint64_t{index} * lanes;
  const uint32_t* const planned = planned_.data() + uint64_t{index} * lanes;
  if (uneven_[index] != (block_counts != nullptr) || !SameFormats(pages_[index], pages)) {
    return false;
  }
  const uint32_t page_count = TotalPages(pages);
  pages_[index] = pages;
  sequences_[index].page_count = page_count;
  const bool same = block_counts == nullptr
                        ? counts[0] == page_count
                        : std::memcmp(counts, block_counts, lanes * sizeof(*counts)) == 0;
  if (same) return true;
  for (uint32_t layer = 0, lane = 0; layer < layers_; ++layer) {
    for (uint32_t head = 0; head < kv_heads_; ++head, ++lane) {
      const uint32_t count = block_counts == nullptr ? page_count : block_counts[lane];
      if (count < counts[lane]) return false;
      counts[lane] = count;
      growth_[layer] = std::max(growth_[layer], count - planned[lane]);
    }
  }
  return true;
}

void LayerPlans::Restart(absl::Span<const StepSequence> sequences,
                         absl::Span<const SequencePages> pages,
                         absl::Span<const uint32_t* const> block_counts) {
  const uint32_t lanes = layers_ * kv_heads_;
  sequences_.clear();
  uneven_.clear();
  counts_.clear();
  pages_.assign(pages.begin(), pages.end());
  for (uint32_t i = 0; i < sequences.size(); ++i) {
    const uint32_t page_count = TotalPages(pages[i]);
    sequences_.push_back({.page_count = page_count, .row = i, .row_count = sequences[i].row_count});
    const uint32_t* const counts = block_counts[i];
    uneven_.push_back(counts != nullptr);
    if (counts == nullptr) {
      counts_.insert(counts_.end(), lanes, page_count);
    } else {
      counts_.insert(counts_.end(), counts, counts + lanes);
    }
  }
  planned_ = counts_;
  std::fill(growth_.begin(), growth_.end(), ~uint32_t{0});  // until they are planned
}

uint64_t LayerPlans::Plan(LayerRange layers, uint8_t* base) {
  uint32_t items = 0;
  for (uint32_t layer = layers.first; layer < layers.first + layers.count; ++layer) {
    items = std::max(items, PlanLayer(layer, base + layer * shape_.stride));
  }
  return shape_.items_offset + items * sizeof(AttendItem);
}

uint32_t LayerPlans::PlanLayer(uint32_t layer, uint8_t* to) {
  const uint32_t lanes = layers_ * kv_heads_, first_lane = layer * kv_heads_;
  uint64_t blocks = 0;
  for (uint32_t i = 0; i < sequences_.size(); ++i) {
    const uint64_t at = uint64_t{i} * lanes + first_lane;
    const uint32_t *const begin = counts_.data() + at, *const end = begin + kv_heads_;
    std::copy(begin, end, planned_.data() + at);
    for (const uint32_t* count = begin; count < end; ++count) blocks += *count;
    if (!uneven_[i]) continue;
    pages_[i].head_blocks = begin;
    for (PageRun& run : pages_[i].runs) {
      if (run.page_count > 0) run.page_count = std::max(1u, *std::max_element(begin, end));
    }
  }
  growth_[layer] = 0;
  bearable_growth_[layer] =
      static_cast<uint32_t>(std::max<uint64_t>(1, blocks / warp_count_ / kShareOfGrowth));
  const AttendPlan plan =
      planner_.Plan(sequences_, pages_,
                    {.items = reinterpret_cast<AttendItem*>(to + shape_.items_offset),
                     .first = 0,
                     .first_item = reinterpret_cast<uint32_t*>(to)});
  return plan.item_count;
}

}  // namespace palimpsest::cuda
