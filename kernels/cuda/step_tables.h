// SPDX-License-Identifier: Apache-2.0
// What BeginStep copies to the device, once a step: plain arrays that every kernel of the step
// reads. Their addresses never change, so that captured graphs find the new contents; what is
// behind the step's own is stale and never read.
#pragma once

#include <cstdint>

#include "common/base/format.h"
#include "kernels/layout.h"

namespace palimpsest::cuda {

// A page as kernels see it: its offset in the pool (a multiple of kPageAlignment) with its formats
// in the low bits, K's above V's.
using PageEntry = uint64_t;
constexpr int kFormatBits = 3;
constexpr uint32_t kFormatPairs = 1 << 2 * kFormatBits;  // not all of which there are
static_assert(kFormatCount <= 1 << kFormatBits && kFormatPairs <= kPageAlignment);

constexpr uint32_t FormatPair(PageFormat format) {
  return static_cast<uint32_t>(format.k) << kFormatBits | static_cast<uint32_t>(format.v);
}
// Of an entry or a pair.
constexpr PageFormat FormatsOf(PageEntry entry) {
  constexpr PageEntry kMask = (1 << kFormatBits) - 1;
  return {static_cast<Format>(entry >> kFormatBits & kMask), static_cast<Format>(entry & kMask)};
}

// A slot: the offset of its page in the pool, with its number in the low four bits.
using SlotPlace = uint64_t;
static_assert(kPageAlignment >= kSlotsPerPage);

// What a step's attention does to the scores of a sequence's slots (SequenceView::slot_score).
enum class SlotUse : uint8_t {
  kNone = 0,
  kAddReceived = 1,  // adds the attention they received
  kEvict = 2,        // weighs them, and evicts a token
};

// One sequence of the step: number i has the rows of the step's StepRows i (sequences without new
// rows are left out). Its pages lie at page_entries[first_page ...], class after class. Of an
// uneven sequence (uneven_lanes.h) the step has UnevenLanes too, as far as blocks go: round_first
// at words[first_round ...], one for each round in use, and block_counts [lanes] at
// words[first_count ...].
inline constexpr uint32_t kEvenLanes = ~uint32_t{0};
struct StepSequence {
  uint32_t first_page = 0;
  uint32_t page_count = 0;
  uint32_t open_group = 0;
  uint32_t open_count = 0;  // tokens in the open group before the step
  uint32_t open_position = 0;
  uint32_t row = 0;  // its rows are [row, row + row_count) of the step's activations
  uint32_t row_count = 0;
  SlotUse slot_use = SlotUse::kNone;
  uint32_t evict_from = 0;  // with kEvict
  uint32_t even_pages = 0;
  uint32_t first_round = 0;
  uint32_t first_count = kEvenLanes;

  constexpr bool uneven() const { return first_count != kEvenLanes; }
};

// One row of the activations: where its K and V go. A row below the step's last that no sequence
// has says so with kNoRow.
constexpr uint32_t kNoRow = ~uint32_t{0};
struct StepRow {
  uint32_t open_group = 0;   // or kNoRow
  uint16_t slot = 0;         // in the open group
  bool keeps_query = false;  // its queries are of the newest that the sequence keeps
  uint32_t position = 0;     // in its sequence, for RoPE
  uint32_t sequence = 0;     // index into the step's sequences
};

struct StepHeader {
  uint32_t row_count = 0;  // rows past it are padding of a captured graph
  // Whether attention goes by a plan for each layer (layer_plans.h): where a sequence is uneven.
  uint32_t layer_plans = 0;
};

// Offsets of one format pair's page, as kernels need them: PageLayout in 40 bytes.
struct DeviceLayout {
  uint32_t k_scales_offset = 0;
  uint32_t v_data_offset = 0;
  uint32_t v_scales_offset = 0;
  uint32_t lane_bytes = 0;
  uint64_t positions_offset = 0;
  uint64_t scores_offset = 0;
  uint64_t masks_offset = 0;
};
struct DeviceLayouts {  // those of FormatPair
  DeviceLayout of[FormatPair({kFormats.back(), kFormats.back()}) + 1];
};

// The pool on the device, by value to every kernel.
struct DevicePool {
  uint8_t* pages = nullptr;
  uint8_t* open_groups = nullptr;
  uint64_t open_group_bytes = 0;  // of each
  int layers = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int query_heads = 0;
  bool slot_scores = false;
  bool residue = false;
  const uint32_t* lane_ranks =
      nullptr;  // [layers * kv_heads], null where the codebook has no shares

#ifdef __CUDACC__
  // `lane`: layer * kv_heads + kv_head. K of 16 tokens, then V; and the tokens' scores, where there
  // are any.
  __device__ uint8_t* OpenLane(uint32_t open_group, uint32_t lane) const {
    const uint32_t lane_bytes = 2 * kGroupTokens * 2 * static_cast<uint32_t>(head_dim);
    return open_groups + open_group * open_group_bytes + size_t{lane} * lane_bytes;
  }
  __device__ float* OpenScores(uint32_t open_group, uint32_t lane) const {
    const auto lanes = static_cast<uint32_t>(layers * kv_heads);
    return reinterpret_cast<float*>(OpenLane(open_group, lanes)) + lane * kGroupTokens;
  }
  // Sums of K [head_dim] and of V [head_dim] of what was evicted, and how many that were: a
  // multiple of 16 bytes a lane (OpenGroupResidueOffset). REQUIRES: CacheShape::residue.
  __device__ float* Residue(uint32_t open_group, uint32_t lane) const {
    const auto lanes = static_cast<uint32_t>(layers * kv_heads);
    return OpenScores(open_group, slot_scores ? lanes : 0) +
           size_t{lane} * (2 * static_cast<uint32_t>(head_dim) + 4);
  }
#endif
};

}  // namespace palimpsest::cuda
