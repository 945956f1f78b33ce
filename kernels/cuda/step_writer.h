// SPDX-License-Identifier: Apache-2.0
// Makes the tables of step_tables.h and the attention's plan, once a step, in plain memory: what
// every kernel of the step reads. No CUDA in here.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/cuda/attend_plan.h"
#include "kernels/cuda/step_tables.h"
#include "kernels/pool_layout.h"

namespace palimpsest::cuda {

// One step's arrays, on the device or in a host copy. So that one copy takes the step's tables to
// the device, however many pages and items it has, these two lie behind each other and behind the
// rest: `pages` and `items` point to the beginning of everything, and indices into them, in
// StepSequence::first_page and in first_item, begin where there is room.
struct StepArrays {
  StepHeader* header = nullptr;
  StepSequence* sequences = nullptr;  // [rows_max]: one for each StepRows
  StepRow* rows = nullptr;            // [rows_max]
  uint32_t* first_item = nullptr;     // [warp_count + 1]
  PageEntry* pages = nullptr;
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
  // the sequences have more pages than the pool has. REQUIRES: arguments checked
  // (kernels/checks.h); `pool` is the constructor's.
  absl::StatusOr<uint64_t> Write(const PoolLayout& pool, absl::Span<const SequenceView> sequences,
                                 absl::Span<const StepRows> rows, uint8_t* base);

  // What was written last.
  absl::Span<const StepSequence> sequences() const { return sequences_; }

 private:
  struct Offsets {
    uint64_t header = 0, sequences = 0, rows = 0, first_item = 0, pages = 0;
  };
  // Fills sequences_ and plan_input_, and the pages from index `first` on. Returns where they end.
  uint64_t PutSequences(const PoolLayout& pool, absl::Span<const SequenceView> sequences,
                        absl::Span<const StepRows> rows, uint64_t first, PageEntry* pages);

  uint64_t pages_max_ = 0;
  Offsets offsets_;
  uint64_t bytes_max_ = 0;
  std::vector<StepSequence> sequences_;
  AttendPlanner planner_;
  std::vector<SequencePages> plan_input_;
};

}  // namespace palimpsest::cuda
