// SPDX-License-Identifier: Apache-2.0
// The blocks of an uneven sequence (kernels/uneven_lanes.h) from what each lane may have at most.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/uneven_lanes.h"

namespace palimpsest {

class UnevenPlan {
 public:
  // `blocks_max`: [lanes], behind the even pages; falls with rank. So many `pages` the sequence
  // has, those included.
  UnevenPlan(const std::vector<uint32_t>& ranks, const std::vector<uint32_t>& blocks_max,
             uint32_t even_pages, uint32_t pages)
      : even_pages_(even_pages), block_counts_(ranks.size(), even_pages) {
    const auto lanes = static_cast<uint32_t>(ranks.size());
    const uint32_t rounds = *std::max_element(blocks_max.begin(), blocks_max.end());
    const uint32_t blocks = (pages - even_pages) * lanes;
    for (uint32_t round = 0; round < rounds; ++round) {
      const auto width = static_cast<uint32_t>(std::count_if(
          blocks_max.begin(), blocks_max.end(), [&](uint32_t most) { return most > round; }));
      for (uint32_t lane = 0; lane < lanes; ++lane) {
        const bool there = ranks[lane] < width && round_first_.back() + ranks[lane] < blocks;
        block_counts_[lane] += there ? 1 : 0;
      }
      round_first_.push_back(round_first_.back() + width);
    }
  }

  UnevenLanes View() const {
    return {.even_pages = even_pages_, .round_first = round_first_, .block_counts = block_counts_};
  }

 private:
  uint32_t even_pages_;
  std::vector<uint32_t> round_first_ = {0};
  std::vector<uint32_t> block_counts_;
};

}  // namespace palimpsest
