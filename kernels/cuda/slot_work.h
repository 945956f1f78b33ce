// SPDX-License-Identifier: Apache-2.0
// What attention tells of each token: the probability it got, summed over query heads.
//
// A softmax's denominators are known only when all its pages have been seen. So attend leaves
// unnormalised probabilities behind, 2 bytes a slot and query head, and one launch for a few layers
// (slot_scores.h) divides them, in place of a second pass over K. What comes of it depends on the
// sequence (SlotUse):
//
//   kAddReceived  H2O: is added to the slot's score, in pages and in the open group
//   kEvict        LongFlow: times the slot's score, which is the L1 norm of V, summed over all
//                 query heads of the layer; the token of the least sum dies in every KV head
//
// All KV heads of a layer of an evicting sequence hold the same tokens in the same slots: they do
// when they have never been treated differently.
#pragma once

#include <vector_types.h>

#include <cstdint>

namespace palimpsest::cuda {

inline constexpr int kNoLayer = -1;

// Layers that are scored by one launch. More would share its cost among more of them, and take
// more memory for their traces.
inline constexpr int kScoredTogether = 8;

template <int kPairs>
inline constexpr uint32_t kTileWords = 9 * kPairs;  // uint2

// The probabilities of one layer, of items whose slot_use is not kNone. A *tile* is what a warp of
// attend has of a page: [8 g][pairs] times two words of two bf16, unnormalised, as thread (g, t)
// holds them (attend_tile.cuh): the slots SlotOfRow(g) and + 8 of the queries 2t and 2t + 1; then
// [pairs][2] floats, -log2 of what they are relative to.
//
// A *column* is a block of the queries of a KV head. *Pages* are the step's, first_page being the
// first; behind them come open groups: that of the sequence whose one row is r is page
// pages_max + r.
struct AttendTrace {
  uint2* tiles = nullptr;      // [columns][pages][kTileWords]
  float2* log_sums = nullptr;  // [rows][columns][pairs]: log2 of the denominators
  uint32_t first_page = 0;     // index of the step's first page entry
  uint32_t pages_max = 0;
  uint32_t pages = 0;   // pages_max + rows
  uint32_t blocks = 1;  // columns of a KV head
  uint32_t pairs = 4;   // of queries, 2 or 4: the last may be of none
};

// A token that may be evicted. The least key goes: the sum's bits, then the position.
struct EvictionCandidate {
  uint64_t key = 0;
  uint32_t place = 0;  // index into the page entries * 16 + slot
  uint32_t reserved = 0;
};
inline constexpr uint64_t kNoCandidate = ~uint64_t{0};

// Of one layer's eviction. `least` is kNoCandidate in between.
struct EvictionBuffers {
  EvictionCandidate* candidates = nullptr;  // [items]: the least of what the item's warp has seen
  unsigned long long* least = nullptr;      // [rows]: the least key of the sequence
};

}  // namespace palimpsest::cuda
