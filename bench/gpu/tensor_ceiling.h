// SPDX-License-Identifier: Apache-2.0
// What the device's tensor cores can do at best, measured beside whatever is compared with it.
#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/statusor.h"

namespace palimpsest::bench {

// TFLOP/s of bf16 products with fp32 sums, by a kernel that does nothing else: operands stay where
// they are, in registers and in shared memory.
absl::StatusOr<double> MeasureTensorCeiling(cudaStream_t stream);

}  // namespace palimpsest::bench
