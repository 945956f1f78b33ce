// SPDX-License-Identifier: Apache-2.0
// Launches that may begin while the kernel before them ends (kernels/cuda/launch_order.cuh), of any
// shape and number of arguments.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <utility>

#include "kernels/cuda/launch_order.cuh"

namespace palimpsest::cuda {

// First in every kernel launched below, before it reads or writes anything that others touch.
__device__ inline void WaitForInputs() {
  WaitForPredecessor();
  AllowSuccessor();
}

struct LaunchShape {
  uint32_t ctas = 1;
  uint32_t threads = 1;
  uint32_t cluster = 1;  // CTAs of a cluster; divides `ctas`
};

template <typename... Params, typename... Arguments>
cudaError_t Launch(void (*kernel)(Params...), const LaunchShape& shape, cudaStream_t stream,
                   Arguments&&... arguments) {
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {.x = shape.cluster, .y = 1, .z = 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.ctas;
  config.blockDim = shape.threads;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = shape.cluster > 1 ? 2 : 1;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

}  // namespace palimpsest::cuda
