// SPDX-License-Identifier: Apache-2.0
// Sequences whose lanes hold different numbers of tokens, in pages of equal shape.
//
// A page has a *block* of 16 slots for every lane: K, V, positions, scores and live mask. In an
// even sequence block l of each page is lane l's. In an uneven one that holds for its first pages
// only (they have the prompt, which all lanes keep); the blocks of all pages behind these are dealt
// out in rounds. Lanes are ranked by their share, the largest first. A round gives one block to
// every lane that may have that many, and these are always the first ranks; so one number a round
// tells where each lane's blocks are, and the host can work out every count without reading the
// device:
//
//   block j of the lane of rank r, counted behind the even pages, is number round_first[j] + r of
//   all blocks there: in page number / lanes, at place number % lanes.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace palimpsest {

// No lane of an uneven sequence has more: as many slots as a backend can score.
inline constexpr uint32_t kLaneBlocksMax = 2048;

// What kernels see of an uneven sequence; all of its pages are of one class. Borrowed, as the rest
// of SequenceView. Empty for an even sequence.
struct UnevenLanes {
  uint32_t even_pages = 0;
  // [rounds + 1], from 0: how many blocks the rounds before have. Differences never rise, and are
  // in 1..lanes.
  absl::Span<const uint32_t> round_first = {};
  // [lanes]: how many blocks each lane has in the sequence's pages, those of even pages included.
  // That of the lane of rank r: even_pages + the rounds j with more than r blocks whose block
  // round_first[j] + r is in a page of the sequence.
  absl::Span<const uint32_t> block_counts = {};

  bool empty() const { return block_counts.empty(); }
};

// Where a block of a lane lies.
struct BlockPlace {
  uint32_t page = 0;   // index into the class's pages
  uint32_t place = 0;  // whose block it would be in an even sequence: a lane's index
};

// Block `index` of lane `lane`, of `lanes`. REQUIRES: index < block_counts[lane].
constexpr BlockPlace PlaceOfBlock(const UnevenLanes& uneven, uint32_t lanes, uint32_t lane,
                                  uint32_t rank, uint32_t index) {
  if (index < uneven.even_pages) return {index, lane};
  const uint32_t number = uneven.round_first[index - uneven.even_pages] + rank;
  return {uneven.even_pages + number / lanes, number % lanes};
}

// The rank of every lane by its share: 0 for the largest, of equal ones for the first.
std::vector<uint32_t> RankLanes(absl::Span<const float> shares);

// UnevenLanes::block_counts of a sequence of `pages` pages, into `counts`, [lanes] like `ranks`. Of
// the last round that begins in these pages some blocks may lie behind them; blocks behind the last
// round are nobody's. O(lanes + rounds).
// REQUIRES: even_pages <= pages; round_first as UnevenLanes says; ranks as RankLanes gives them.
void CountBlocks(uint32_t even_pages, uint32_t pages, absl::Span<const uint32_t> round_first,
                 absl::Span<const uint32_t> ranks, absl::Span<uint32_t> counts);

}  // namespace palimpsest
