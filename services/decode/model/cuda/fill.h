// SPDX-License-Identifier: Apache-2.0
// Random weights, made where they are needed.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "services/decode/model/tensor_names.h"

namespace palimpsest::cuda {

// Fills `count` elements, fp32 or bf16, with what `values` says.
cudaError_t FillUniform(const SyntheticTensor& values, void* out, bool is_float, uint64_t count,
                        cudaStream_t stream);

}  // namespace palimpsest::cuda
