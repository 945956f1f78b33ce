// SPDX-License-Identifier: Apache-2.0
// A backend's configuration with the layouts of all kinds of page worked out: what the
// checks and every backend need to know of a pool, wherever its memory is.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "kernels/backend.h"

namespace palimpsest {

inline constexpr int kMaxHeadDim = 256;  // of any backend

class PoolLayout {
 public:
  explicit PoolLayout(const BackendConfig& config) : config_(config) {
    if (config.codebook != nullptr) lane_ranks_ = RankLanes(config.codebook->lane_shares);
    for (const Format k : kFormats) {
      for (const Format v : kFormats) {
        pages_[static_cast<size_t>(k)][static_cast<size_t>(v)] =
            MakePageLayout(config.shape, {k, v});
      }
    }
  }

  const BackendConfig& config() const { return config_; }
  const CacheShape& shape() const { return config_.shape; }
  const PageLayout& page(PageFormat format) const {
    return pages_[static_cast<size_t>(format.k)][static_cast<size_t>(format.v)];
  }
  uint64_t smallest_page_bytes() const {
    return page({Format::kTernary, Format::kTernary}).page_bytes;
  }
  // [lanes]: the ranks of lanes in uneven sequences; empty where the codebook has no shares.
  const std::vector<uint32_t>& lane_ranks() const { return lane_ranks_; }
  // No more sequences than this have rows in a step.
  uint32_t sequences_max() const { return std::min(config_.rows_max, config_.open_groups); }
  // No more pages than this are in the pool at once.
  uint64_t pages_max() const { return config_.pool_bytes / smallest_page_bytes(); }

 private:
  BackendConfig config_;
  std::array<std::array<PageLayout, kFormatCount>, kFormatCount> pages_{};
  std::vector<uint32_t> lane_ranks_;
};

}  // namespace palimpsest
