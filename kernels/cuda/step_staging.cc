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
  return staging;
}

absl::Status StepStaging::Stage(const PoolLayout& pool, absl::Span<const SequenceView> sequences,
                                absl::Span<const StepRows> rows, cudaStream_t stream) {
  KV_ASSIGN_OR_RETURN(uint8_t* const base, block_.Begin());
  KV_ASSIGN_OR_RETURN(const uint64_t bytes, writer_.Write(pool, sequences, rows, base));
  return block_.Copy(bytes, stream);
}

}  // namespace palimpsest::cuda
