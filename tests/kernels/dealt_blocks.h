// SPDX-License-Identifier: Apache-2.0
// What a test needs to make uneven sequences (kernels/uneven_lanes.h). Worked out by dealing one
// block after the other, so that it can tell whether kernels compute the same.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "kernels/query_codebook.h"
#include "kernels/uneven_lanes.h"

namespace palimpsest {

// Shares that all differ, the largest 16 times the smallest, in no order of lanes. Their mean is 1.
std::vector<float> SpreadShares(int lanes);

// `book` with these shares.
std::shared_ptr<const QueryCodebook> WithShares(const QueryCodebook& book,
                                                std::vector<float> shares);

// The blocks of an uneven sequence: owns what an UnevenLanes borrows. Copies and moves; views are
// of the one they were asked of.
class DealtBlocks {
 public:
  // No page yet. `ranks` as of RankLanes. Lane l may have up to capacities[l] blocks behind the
  // even pages. REQUIRES: capacities that are at least 1 and do not rise with the rank.
  DealtBlocks(uint32_t even_pages, absl::Span<const uint32_t> ranks,
              absl::Span<const uint32_t> capacities);

  // One more page: an even one as long as there shall be more of these, else its blocks are dealt
  // out.
  void AddPage();
  // So many pages, more or fewer than before.
  void SetPages(uint32_t pages);

  uint32_t pages() const { return pages_; }
  // In which every lane has all the blocks it may have.
  uint32_t pages_max() const;
  // Valid until there are other pages.
  UnevenLanes View() const;
  // The blocks of a lane, in order.
  const std::vector<BlockPlace>& blocks(int lane) const { return blocks_[lane]; }
  // [lanes]: how many.
  const std::vector<uint32_t>& counts() const { return counts_; }
  // Whether every lane has all the blocks it may have.
  bool all_dealt() const { return round_ + 1 == round_first_.size(); }

 private:
  uint32_t even_pages_;
  std::vector<uint32_t> lane_of_rank_;
  std::vector<uint32_t> round_first_;
  uint32_t pages_ = 0;
  // The next block that is dealt.
  uint32_t round_ = 0;
  uint32_t rank_ = 0;
  std::vector<std::vector<BlockPlace>> blocks_;  // by lane
  std::vector<uint32_t> counts_;
};

}  // namespace palimpsest
