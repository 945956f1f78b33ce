// SPDX-License-Identifier: Apache-2.0
// The tables of a step (step_writer.h), copied to where every kernel of the step, captured or not,
// finds them.
#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/cuda/staged_block.h"
#include "kernels/cuda/step_writer.h"

namespace palimpsest::cuda {

class StepStaging {
 public:
  static absl::StatusOr<StepStaging> Make(const PoolLayout& pool, const AttendGeometry& geometry,
                                          cudaStream_t stream);

  // Fixed addresses, on the device.
  const StepArrays& device() const { return device_; }
  // The plans of all layers (layer_plans.h); null where there are no shares.
  const uint8_t* layer_plans() const { return plans_.device(); }
  LayerPlanShape layer_plan_shape() const;

  // What was staged last, in host memory until the next Stage.
  absl::Span<const StepSequence> sequences() const { return writer_.sequences(); }

  // Writes the tables and orders their copy; arguments and errors as StepWriter::Write.
  absl::Status Stage(const PoolLayout& pool, absl::Span<const SequenceView> sequences,
                     absl::Span<const StepRows> rows, cudaStream_t stream);

 private:
  absl::Status StagePlans(cudaStream_t stream);

  StepWriter writer_;
  StagedBlock block_;
  StagedBlock plans_;  // each copy has the layers that were planned when it was filled
  StepArrays device_;
};

}  // namespace palimpsest::cuda
