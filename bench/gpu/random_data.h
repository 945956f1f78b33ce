// SPDX-License-Identifier: Apache-2.0
// Random content for benchmarks, made on the device.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace palimpsest::bench {

// Gaussian bf16 values, mean 0. The same seed gives the same values.
cudaError_t FillNormal(void* data, uint64_t count, float stddev, uint64_t seed,
                       cudaStream_t stream);

}  // namespace palimpsest::bench
