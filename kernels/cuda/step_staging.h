// SPDX-License-Identifier: Apache-2.0
// The tables of step_tables.h and the attention's plan, made on the host once a step and copied to
// where every kernel of the step, captured or not, finds them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/cuda/attend_plan.h"
#include "kernels/cuda/staged_block.h"
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
};

class StepStaging {
 public:
  static absl::StatusOr<StepStaging> Make(const PoolLayout& pool, const AttendGeometry& geometry,
                                          cudaStream_t stream);

  // Fixed addresses, on the device.
  const StepArrays& device() const { return device_; }

  // What was staged last, in host memory until the next Stage.
  absl::Span<const StepSequence> sequences() const { return sequences_; }

  // Fills the tables, plans the attention and orders the copies. InvalidArgument when the
  // sequences have more pages than the pool has. REQUIRES: arguments checked (kernels/checks.h).
  absl::Status Stage(const PoolLayout& pool, absl::Span<const SequenceView> sequences,
                     absl::Span<const StepRows> rows, cudaStream_t stream);

 private:
  struct Offsets {
    uint64_t header = 0, sequences = 0, rows = 0, first_item = 0, pages = 0;
  };
  StepArrays At(uint8_t* base) const;
  // Fills sequences_ and plan_input_, and the pages from index `first` on. Returns where they end.
  uint64_t PutSequences(const PoolLayout& pool, absl::Span<const SequenceView> sequences,
                        absl::Span<const StepRows> rows, uint64_t first, PageEntry* pages);

  AttendGeometry geometry_;
  uint64_t pages_max_ = 0;
  Offsets offsets_;
  StagedBlock block_;
  StepArrays device_;
  std::vector<StepSequence> sequences_;
  AttendPlan plan_;
  std::vector<SequencePages> plan_input_;
};

}  // namespace palimpsest::cuda
