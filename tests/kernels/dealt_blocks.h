// SPDX-License-Identifier: Apache-2.0
// Uneven sequences for tests of the host's tables: blocks dealt out to lanes by the rule of
// kernels/uneven_lanes.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/uneven_lanes.h"

namespace palimpsest {

class DealtBlocks {
 public:
  // `blocks_max`: behind the even pages, of the lane of each rank; they never rise.
  DealtBlocks(std::vector<uint32_t> ranks, std::vector<uint32_t> blocks_max, uint32_t even_pages)
      : ranks_(std::move(ranks)), even_pages_(even_pages) {
    for (uint32_t round = 0; round < blocks_max.front(); ++round) {
      const auto size = std::count_if(blocks_max.begin(), blocks_max.end(),
                                      [&](uint32_t most) { return most > round; });
      round_first_.push_back(round_first_.back() + static_cast<uint32_t>(size));
    }
    SetPages(even_pages);
  }

  // No fewer than the even ones.
  void SetPages(uint32_t pages) {
    const auto lanes = static_cast<uint32_t>(ranks_.size());
    pages_ = pages;
    counts_.assign(lanes, even_pages_);
    for (uint32_t lane = 0; lane < lanes; ++lane) {
      for (size_t round = 0; round + 1 < round_first_.size(); ++round) {
        const uint32_t number = round_first_[round] + ranks_[lane];
        if (number < std::min(round_first_[round + 1], (pages - even_pages_) * lanes)) {
          ++counts_[lane];
        }
      }
    }
  }

  uint32_t pages() const { return pages_; }
  // Pages for all blocks there are.
  uint32_t pages_max() const {
    const auto lanes = static_cast<uint32_t>(ranks_.size());
    return even_pages_ + (round_first_.back() + lanes - 1) / lanes;
  }
  const std::vector<uint32_t>& counts() const { return counts_; }
  UnevenLanes view() const {
    return {.even_pages = even_pages_, .round_first = round_first_, .block_counts = counts_};
  }

 private:
  std::vector<uint32_t> ranks_;
  uint32_t even_pages_;
  uint32_t pages_ = 0;
  std::vector<uint32_t> round_first_ = {0};
  std::vector<uint32_t> counts_;  // [lanes]
};

}  // namespace palimpsest
