// SPDX-License-Identifier: Apache-2.0
// Anneal as the backend does it: pages to the device, tasks with the launches (anneal.h). Has what
// selectors need besides: the codebook, and the ring of each sequence's newest queries.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cuda/anneal.h"
#include "kernels/cuda/codebook.h"
#include "kernels/cuda/device_context.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/lane_tables.h"
#include "kernels/cuda/order_staging.h"

namespace palimpsest::cuda {

class Annealer {
 public:
  static absl::StatusOr<Annealer> Make(const DeviceContext& device);

  // Where the append kernels leave the newest queries; null where none are kept.
  const QueryWindows& queries() const { return queries_; }
  absl::Status ZeroQueries(const DeviceContext& device, uint32_t open_group);

  // InvalidArgument, with nothing done, for a segment too long for its selector.
  // REQUIRES: arguments checked (kernels/checks.h).
  absl::Status Anneal(const DeviceContext& device, absl::Span<const SequenceView> sequences,
                      absl::Span<const AnnealOrder> orders, OrderStaging* staging);

 private:
  // Copies the lane of each rank to the device, where lanes have shares.
  absl::Status MakeLanesByRank(const DeviceContext& device);
  absl::StatusOr<AnnealTask> TaskOf(absl::Span<const SequenceView> sequences,
                                    const AnnealOrder& order, LaneTables* lanes) const;
  // Fills tasks_ and copies the pages they name, to what is returned.
  absl::StatusOr<const PageEntry*> Stage(absl::Span<const SequenceView> sequences,
                                         absl::Span<const AnnealOrder> orders, cudaStream_t stream,
                                         OrderStaging* staging);

  AnnealParams Params(const DeviceContext& device, const PageEntry* pages,
                      const LaneTables& lanes) const;

  uint64_t scratch_bytes_ = 0;
  DeviceBytes scratch_;
  DeviceBytes lanes_by_rank_;
  Codebook codebook_;
  DeviceBytes query_bytes_;
  QueryWindows queries_;
  std::vector<AnnealTask> tasks_;
};

}  // namespace palimpsest::cuda
