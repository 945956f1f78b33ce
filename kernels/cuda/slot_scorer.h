// SPDX-License-Identifier: Apache-2.0
// Scores of slots as the backend does them: attends leave traces, and a launch (slot_scores.h)
// scores a few layers at once; after the last layer of a step one more.
#pragma once

#include <cstdint>
#include <vector>

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

  // For the next attend to fill; null where slots carry no scores.
  const AttendTrace* trace() const { return active_ ? &traces_[now_.count] : nullptr; }

  // After attend of `layer`.
  absl::Status Attended(const DeviceContext& device, int layer);
  // Completes the layers attended to last, if that is yet to be done: to be called while the
  // step's tables are still there.
  absl::Status Finish(const DeviceContext& device);

 private:
  absl::Status Allocate(const DeviceContext& device, const AttendTrace& shape);
  absl::Status Launch(const DeviceContext& device);

  bool active_ = false;
  AttendGeometry geometry_;
  AttendBuffers step_;
  // Layers that are scored by one launch, and whose evictions the next carries out.
  struct Batch {
    int layers[kScoredTogether] = {};
    int count = 0;
    EvictionBuffers evictions[kScoredTogether];
  };
  AttendTrace traces_[kScoredTogether];  // of now_
  Batch now_, before_;
  std::vector<DeviceBytes> memory_;  // of them
};

}  // namespace palimpsest::cuda
