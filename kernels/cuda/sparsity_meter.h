// SPDX-License-Identifier: Apache-2.0
// MeasureSparsity as the backend does it: the device writes results to pinned memory, and
// Synchronize or AwaitSparsity takes them from there to where each caller wants them. So measuring
// waits for nothing.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cuda/device_context.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/step_staging.h"

namespace palimpsest::cuda {

class SparsityMeter {
 public:
  static absl::StatusOr<SparsityMeter> Make(const DeviceContext& device);

  // Orders sparsity[i] for wanted[i], an index into the step's StepRows; Deliver fills it in.
  // InvalidArgument for a sequence with more pages than there is scratch for.
  absl::Status Measure(const DeviceContext& device, const StepStaging& step, int layer,
                       absl::Span<const uint32_t> wanted, const void* q, float scale,
                       absl::Span<float> sparsity);

  // Waits for what has been ordered, and delivers it.
  absl::Status Await();

  // Internal where the KV heads of a sequence had different numbers of live keys: what was measured
  // since the last Deliver is lost then. REQUIRES: the stream has been waited for.
  absl::Status Deliver();

 private:
  // Room for the device to write the results that `to` waits for. Waits itself, and delivers, only
  // when too many are outstanding.
  absl::StatusOr<float*> Reserve(absl::Span<float> to, cudaStream_t stream);

  uint64_t scratch_bytes_ = 0;
  DeviceBytes scratch_, arrivals_;
  Event measured_;  // all that has been ordered
  PinnedBytes results_;
  uint64_t results_max_ = 0;
  uint64_t results_used_ = 0;
  std::vector<absl::Span<float>> owed_;  // in the order of results_
};

}  // namespace palimpsest::cuda
