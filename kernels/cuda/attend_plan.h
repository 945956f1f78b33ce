// SPDX-License-Identifier: Apache-2.0
// How one step's attention is cut over the warps of the device: decided on the host, once a step
// for all layers (they share block tables), or layer by layer where sequences are uneven
// (layer_plans.h). No CUDA in here.
//
// The pages of all pairs (a sequence's KV head and a block of its queries) form one long line,
// weighted by the bytes they cost. It is cut into equal stretches, one a CTA, and those again into
// equal ones, one a warp. What a CTA has of a pair is a *piece*; warps that share a piece are a
// *team*, which merges its states through shared memory; pieces of one pair merge through device
// memory.
//
// States are merged in page order whoever arrives first: results do not depend on timing.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "common/base/thought.h"
#include "kernels/cuda/step_tables.h"

namespace palimpsest::cuda {

// What one warp does at a stretch: some pages of one pair. It holds what a kernel needs of the
// sequence, so that nothing else must be looked up before the first page can be asked for.
//
// In a plan of one layer (layer_plans.h), which outlives the step, `row` is the sequence's index
// and first_page counts from its first page or, where it is uneven, block. What is behind the
// piece's last page is its too if it has the open group; and open_group, open_count, slot_use and
// evict_from are the sequence's own.
struct AttendItem {
  uint32_t first_page = 0;  // index into the step's page entries
  uint32_t page_count = 0;
  uint32_t row = 0;  // the sequence's first row in the activations
  uint32_t open_group = 0;
  uint32_t pair = 0;        // index of the pair's arrival counter
  uint32_t first_part = 0;  // of the pair: where its pieces' states begin
  uint16_t part = 0;        // index of the piece in the pair
  uint16_t part_count = 0;  // 1: the pair is not cut, no merge through device memory
  uint16_t kv_head = 0;
  uint16_t first_query = 0;     // of the pair's sequence: row-major, then head of the group
  uint16_t query_count = 0;     // of the sequence: rows * heads of the group
  uint16_t stage_bytes_16 = 0;  // the largest lane among the pages of the warp's items / 16
  uint8_t row_count = 0;
  uint8_t open_count = 0;  // tokens in the open group before the step
  uint8_t with_open_group = 0;
  uint8_t team_first = 0;  // warps [team_first, team_first + team_size) of the CTA share the piece
  uint8_t team_size = 0;
  // A warp of a team has the piece as its last item, except the last of the team, which may go on
  // to further pieces; its state then has to be kept elsewhere.
  uint8_t team_goes_on = 0;
  SlotUse slot_use = SlotUse::kNone;
  uint32_t evict_from = 0;
};
static_assert(sizeof(AttendItem) == 48);

struct AttendGeometry {
  uint32_t cta_count = 0;
  uint32_t warps_per_cta = 0;
  uint32_t queries_max = 8;  // of one item
  uint32_t items_max = 0;    // bounds of the device's buffers
  uint32_t parts_max = 0;
  uint32_t pairs_max = 0;

  uint32_t warp_count() const { return cta_count * warps_per_cta; }
};

// `grid` with the bounds that steps of so many rows and sequences ask for.
AttendGeometry WithBounds(AttendGeometry grid, const CacheShape& shape, int query_heads,
                          uint32_t rows_max, uint32_t sequences_max);

// One sequence as the plan sees it: runs of equal pages in block-table order.
struct PageRun {
  uint32_t page_count = 0;
  uint32_t lane_bytes = 0;
};
struct SequencePages {
  PageRun runs[kThoughtCount];
  // [kv_heads], of an uneven sequence, which has one run only: how many blocks each head has. The
  // run has as many pages as the longest head's.
  const uint32_t* head_blocks = nullptr;
};

// Where a plan goes: the items to items[first ...], and to first_item[warp_count + 1] where each
// warp's begin: warp w of CTA c does items [first_item[i], first_item[i + 1]) with
// i = c * warps_per_cta + w.
struct AttendTables {
  AttendItem* items = nullptr;
  uint32_t first = 0;
  uint32_t* first_item = nullptr;
};

struct AttendPlan {
  uint32_t item_count = 0;
  uint32_t part_count = 0;
  uint32_t pair_count = 0;
};

// A stretch of one pair's pages, and the open group behind them or not.
struct AttendStretch {
  uint32_t first_page = 0;  // of the sequence's
  uint32_t page_count = 0;
  bool with_open_group = false;
  int64_t cost = 0;
};

// A CTA's share of one pair.
struct AttendPiece {
  AttendStretch stretch;
  uint32_t sequence = 0;  // index into the plan's input
  uint32_t cta = 0;
  uint32_t pair = 0;  // this and the next as in AttendItem
  uint32_t first_part = 0;
  uint32_t part = 0;
  uint32_t part_count = 0;
  uint32_t kv_head = 0;
  uint32_t first_query = 0;
};

class AttendPlanner {
 public:
  AttendPlanner() = default;
  AttendPlanner(const AttendGeometry& geometry, const CacheShape& shape, int query_heads);

  // Plans a step; pages[i] tells of sequences[i]. `tables` has room for the geometry's bounds.
  AttendPlan Plan(absl::Span<const StepSequence> sequences, absl::Span<const SequencePages> pages,
                  const AttendTables& tables);

 private:
  uint32_t PairCount(const StepSequence& sequence) const;
  // All pages of a head's pairs, and the open group.
  AttendStretch Whole(const StepSequence& sequence, const SequencePages& pages,
                      uint32_t head) const;
  // What a CTA shall do, in PageCost's units.
  int64_t CtaShare(absl::Span<const StepSequence> sequences,
                   absl::Span<const SequencePages> pages) const;

  AttendGeometry geometry_;
  uint32_t kv_heads_ = 0;
  uint32_t group_ = 0;  // query heads of a KV head
  int64_t open_group_cost_ = 0;
  // Scratch.
  std::vector<AttendItem> whole_;    // by sequence: of a pair that is not cut
  std::vector<AttendPiece> pieces_;  // of the CTAs not yet dealt
};

}  // namespace palimpsest::cuda
