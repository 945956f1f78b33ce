// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/step_staging.h"

#include "common/base/status_macros.h"

namespace palimpsest::cuda {

absl::StatusOr<StepStaging> StepStaging::Make(const PoolLayout& pool,
                                              const AttendGeometry& geometry, cudaStream_t stream) {
  StepStaging staging;
  staging.writer_ = StepWriter(pool, geometry);
  KV_ASSIGN_OR_RETURN(staging.block_, StagedBlock::Make(staging.writer_.bytes_max(), stream,
                                                        "the tables of a step"));
  staging.device_ = staging.writer_.At(staging.block_.device());
  if (LayerPlans* const plans = staging.writer_.layer_plans(); plans != nullptr) {
    KV_ASSIGN_OR_RETURN(staging.plans_,
                        StagedBlock::Make(plans->bytes(), stream, "the plans of layers"));
  }
  return staging;
}

LayerPlanShape StepStaging::layer_plan_shape() const {
  const LayerPlans* const plans = writer_.layer_plans();
  return plans == nullptr ? LayerPlanShape{} : plans->shape();
}

absl::Status StepStaging::Stage(const PoolLayout& pool, absl::Span<const SequenceView> sequences,
                                absl::Span<const StepRows> rows, cudaStream_t stream) {
  KV_ASSIGN_OR_RETURN(uint8_t* const base, block_.Begin());
  KV_ASSIGN_OR_RETURN(const uint64_t bytes, writer_.Write(pool, sequences, rows, base));
  KV_RETURN_IF_ERROR(block_.Copy(bytes, stream));
  return writer_.due_layers().count == 0 ? absl::OkStatus() : StagePlans(stream);
}

absl::Status StepStaging::StagePlans(cudaStream_t stream) {
  LayerPlans& plans = *writer_.layer_plans();
  const LayerRange layers = writer_.due_layers();
  KV_ASSIGN_OR_RETURN(uint8_t* const base, plans_.Begin());
  const uint64_t bytes = plans.Plan(layers, base);
  const uint64_t stride = plans.shape().stride;
  return plans_.CopyRows(
      {.first_byte = layers.first * stride, .stride = stride, .rows = layers.count, .bytes = bytes},
      stream);
}

}  // namespace palimpsest::cuda
