// SPDX-License-Identifier: Apache-2.0
#include "tests/kernels/dealt_blocks.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/base/check.h"

namespace palimpsest {

std::vector<float> SpreadShares(int lanes) {
  std::vector<float> shares;
  float sum = 0;
  const int stride = lanes % 7 == 0 ? 1 : 7;
  for (int i = 0; i < lanes; ++i) {
    const int rank = (i * stride + lanes / 2) % lanes;
    shares.push_back(
        std::exp2(-4.0f * static_cast<float>(rank) / static_cast<float>(std::max(1, lanes - 1))));
    sum += shares.back();
  }
  for (float& share : shares) share *= static_cast<float>(lanes) / sum;
  return shares;
}

std::shared_ptr<const QueryCodebook> WithShares(const QueryCodebook& book,
                                                std::vector<float> shares) {
  auto with = std::make_shared<QueryCodebook>(book);
  with->lane_shares = std::move(shares);
  return with;
}

DealtBlocks::DealtBlocks(uint32_t even_pages, absl::Span<const uint32_t> ranks,
                         absl::Span<const uint32_t> capacities)
    : even_pages_(even_pages),
      lane_of_rank_(ranks.size()),
      round_first_{0},
      blocks_(ranks.size()),
      counts_(ranks.size()) {
  KV_CHECK(!ranks.empty() && capacities.size() == ranks.size());
  for (uint32_t lane = 0; lane < ranks.size(); ++lane) lane_of_rank_[ranks[lane]] = lane;
  const auto capacity = [&](size_t rank) { return capacities[lane_of_rank_[rank]]; };
  KV_CHECK(capacity(ranks.size() - 1) >= 1);
  for (size_t rank = 1; rank < ranks.size(); ++rank) {
    KV_CHECK(capacity(rank) <= capacity(rank - 1));
  }
  for (uint32_t round = 0; round < capacity(0); ++round) {
    uint32_t size = 0;
    while (size < ranks.size() && capacity(size) > round) ++size;
    round_first_.push_back(round_first_.back() + size);
  }
}

void DealtBlocks::AddPage() {
  const auto lanes = static_cast<uint32_t>(blocks_.size());
  for (uint32_t place = 0; place < lanes; ++place) {
    uint32_t lane = place;
    if (pages_ >= even_pages_) {
      if (all_dealt()) break;
      lane = lane_of_rank_[rank_];
      if (++rank_ == round_first_[round_ + 1] - round_first_[round_]) {
        ++round_;
        rank_ = 0;
      }
    }
    blocks_[lane].push_back({.page = pages_, .place = place});
    ++counts_[lane];
  }
  ++pages_;
}

void DealtBlocks::SetPages(uint32_t pages) {
  if (pages < pages_) {
    pages_ = round_ = rank_ = 0;
    for (std::vector<BlockPlace>& of_lane : blocks_) of_lane.clear();
    counts_.assign(counts_.size(), 0);
  }
  while (pages_ < pages) AddPage();
}

uint32_t DealtBlocks::pages_max() const {
  const auto lanes = static_cast<uint32_t>(blocks_.size());
  return even_pages_ + (round_first_.back() + lanes - 1) / lanes;
}

UnevenLanes DealtBlocks::View() const {
  return {.even_pages = std::min(even_pages_, pages_),
          .round_first = round_first_,
          .block_counts = counts_};
}

}  // namespace palimpsest
