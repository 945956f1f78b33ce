// SPDX-License-Identifier: Apache-2.0
// What seals and anneals are told of uneven sequences (kernels/uneven_lanes.h), as the device sees
// it: numbers in a row, a table behind the other (lane_tables.h). There are two kinds.
#pragma once

#include <cstdint>

namespace palimpsest::cuda {

// Where a table begins among a call's numbers; kNoTable for an even sequence.
inline constexpr uint32_t kNoTable = ~uint32_t{0};

// Of a sequence: its even pages, [lanes] how many blocks each rank has, [rounds + 1] round_first.
struct UnevenTable {
  const uint32_t* numbers = nullptr;

  static constexpr uint64_t Size(uint64_t lanes, uint64_t rounds) { return 2 + lanes + rounds; }

  constexpr uint32_t even_pages() const { return numbers[0]; }
  // Falls with rank.
  constexpr uint32_t block_count(uint32_t rank) const { return numbers[1 + rank]; }

  // PlaceOfBlock: index of a page of the class, and a place in it.
  struct Place {
    uint32_t page = 0;
    uint32_t place = 0;
  };
  constexpr Place Find(uint32_t lanes, uint32_t lane, uint32_t rank, uint32_t block) const {
    // Of all blocks of the sequence. Nothing to branch at, so that threads can look for many at
    // once.
    const bool even = block < even_pages();
    const uint32_t first = numbers[1 + lanes + (even ? 0 : block - even_pages())];
    const uint32_t number = even ? block * lanes + lane : even_pages() * lanes + first + rank;
    return {number / lanes, number % lanes};
  }
};

// Of an order: [lanes] one of these, in the order of lanes.
struct LaneKeep {
  uint32_t keep = 0;
  uint32_t recent = 0;  // so many of the newest stay (at most `keep`)

  static constexpr uint64_t kNumbers = 2;  // of a lane
  static constexpr LaneKeep Of(const uint32_t* numbers, uint32_t lane) {
    return {numbers[kNumbers * lane], numbers[kNumbers * lane + 1]};
  }
};

}  // namespace palimpsest::cuda
