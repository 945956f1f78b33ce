// SPDX-License-Identifier: Apache-2.0
// Launches whose prologue overlaps the end of the kernel before them (programmatic dependent
// launch), from compute capability 9.0 on; elsewhere they are plain launches.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <utility>

namespace palimpsest::cuda {

// First in a kernel launched below, before it reads or writes anything that others touch: waits for
// the kernels before it, and lets the one after it be put on the multiprocessors.
__device__ inline void WaitForInputs() {
#if __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}

// `cluster`: CTAs of a cluster; divides `ctas`.
template <typename... Params, typename... Arguments>
cudaError_t LaunchCluster(void (*kernel)(Params...), dim3 ctas, dim3 threads, uint32_t cluster,
                          cudaStream_t stream, Arguments&&... arguments) {
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {.x = cluster, .y = 1, .z = 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = ctas;
  config.blockDim = threads;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = cluster > 1 ? 2 : 1;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

template <typename... Params, typename... Arguments>
cudaError_t Launch(void (*kernel)(Params...), dim3 ctas, dim3 threads, cudaStream_t stream,
                   Arguments&&... arguments) {
  return LaunchCluster(kernel, ctas, threads, 1, stream, std::forward<Arguments>(arguments)...);
}

}  // namespace palimpsest::cuda
