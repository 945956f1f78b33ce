// SPDX-License-Identifier: Apache-2.0
// Scores of slots as the backend does them: a traced attend, then one launch (slot_scores.h); after
// the last layer of a step one more.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/device_context.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/slot_scores.h"

namespace palimpsest::cuda {

class SlotScorer {
 public:
  // Nothing but an empty one where the pool's slots carry no scores.
  // `step` and `geometry` are attend's, first_page the index of the first page entry of a step.
  static absl::StatusOr<SlotScorer> Make(const DeviceContext& device,
                                         const AttendGeometry& geometry, const AttendBuffers& step,
                                         uint32_t first_page);

  // For attend to fill; null where slots carry no scores.
  const AttendTrace* trace() const { return active_ ? &trace_ : nullptr; }

  // After attend of `layer`.
  absl::Status Score(const DeviceContext& device, int layer);
  // Completes the layer scored last, if that is yet to be done: to be called while the step's
  // tables are still there.
  absl::Status Finish(const DeviceContext& device);

 private:
  absl::Status Allocate(const DeviceContext& device);
  absl::Status Launch(const DeviceContext& device, int layer);

  bool active_ = false;
  AttendGeometry geometry_;
  AttendBuffers step_;
  AttendTrace trace_;
  DeviceBytes probabilities_, references_, log_sums_;
  EvictionBuffers evictions_[2];  // of the layer at hand and the one before, in turn
  DeviceBytes candidates_[2], least_[2];
  int found_layer_ = kNoLayer;  // whose candidates lie in evictions_[found_]
  int found_ = 0;
};

}  // namespace palimpsest::cuda
