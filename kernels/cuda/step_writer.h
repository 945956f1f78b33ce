// SPDX-License-Identifier: Apache-2.0
// Makes the tables of step_tables.h and the attention's plan, once a step, in plain memory: what
// every kernel of the step reads. No CUDA in here.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/cuda/attend_plan.h"
#include "kernels/cuda/layer_plans.h"
#include "kernels/cuda/step_tables.h"
#include "kernels/pool_layout.h"

namespace palimpsest::cuda {

// One step's arrays, on the device or in a host copy. So that one copy takes the step's tables to
// the device, however many pages, words and items it has, these lie behind each other and behind
// the rest: `pages`, `words` and `items` point to the beginning of everything, and indices into
// them, in StepSequence and in first_item, begin where there is room.
struct StepArrays {
  StepHeader* header = nullptr;
  StepSequence* sequences = nullptr;  // [rows_max]: one for each StepRows
  StepRow* rows = nullptr;            // [rows_max]
  uint32_t* first_item = nullptr;     // [warp_count + 1]
  PageEntry* pages = nullptr;
  uint32_t* words = nullptr;  // of uneven sequences: see StepSequence
  AttendItem* items = nullptr;
  uint32_t first_page = 0;  // the lowest index into pages
};

class StepWriter {
 public:
  StepWriter() = default;
  StepWriter(const PoolLayout& pool, const AttendGeometry& geometry);

  uint64_t bytes_max() const { return bytes_max_; }
  // The arrays of a block of bytes_max() bytes.
  StepArrays At(uint8_t* base) const;

  // Writes a step into a block and returns how many bytes of it are in use. InvalidArgument when
  // the sequences have more pages or rounds than the pool has room for. REQUIRES: arguments
  // checked (kernels/checks.h); `pool` is the constructor's. Where a sequence is uneven the block
  // has a plan for slot scores only; what Attend wants is in layer_plans(), once due_layers() have
  // been planned.
  absl::StatusOr<uint64_t> Write(const PoolLayout& pool, absl::Span<const SequenceView> sequences,
                                 absl::Span<const StepRows> rows, uint8_t* base);

  // What was written last.
  absl::Span<const StepSequence> sequences() const { return sequences_; }
  LayerRange due_layers() const { return due_layers_; }
  // Null where the codebook has no shares.
  LayerPlans* layer_plans() { return layer_plans_.has_value() ? &*layer_plans_ : nullptr; }
  const LayerPlans* layer_plans() const {
    return layer_plans_.has_value() ? &*layer_plans_ : nullptr;
  }

 private:
  struct Offsets {
    uint64_t header = 0, sequences = 0, rows = 0, first_item = 0, pages = 0;
  };
  // Fills sequences_ and plan_input_, and the pages from index `first` on. Returns where they end.
  uint64_t PutSequences(const PoolLayout& pool, absl::Span<const SequenceView> sequences,
                        absl::Span<const StepRows> rows, uint64_t first, PageEntry* pages);
  // What uneven sequences want: fills block_counts_, and the words from index `first` on. Returns
  // where they end.
  absl::StatusOr<uint64_t> PutUneven(absl::Span<const SequenceView> sequences,
                                     absl::Span<const StepRows> rows, uint64_t first,
                                     uint32_t* words);

  uint64_t pages_max_ = 0, rounds_max_ = 0;
  Offsets offsets_;
  uint64_t bytes_max_ = 0;
  std::vector<StepSequence> sequences_;
  AttendPlanner planner_;
  std::vector<SequencePages> plan_input_;
  std::optional<LayerPlans> layer_plans_;
  std::vector<const uint32_t*> block_counts_;  // by sequence, null: even
  uint32_t lanes_ = 0;
  LayerRange due_layers_;
};

}  // namespace palimpsest::cuda
