// SPDX-License-Identifier: Apache-2.0
// Programmatic dependent launch: a kernel launched with the attribute may begin while its
// predecessor in the stream still runs, and waits for it where it needs what that writes. Before
// sm_90 there is no such thing, and both functions do nothing.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace palimpsest::cuda {

// Everything the kernels before this one have written is there afterwards.
__device__ __forceinline__ void WaitForPredecessor() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// From here on the next kernel may begin, if it was launched so.
__device__ __forceinline__ void AllowSuccessor() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Launches a kernel so. REQUIRES: all of its threads call WaitForPredecessor.
template <typename Params>
cudaError_t LaunchEarly(void (*kernel)(Params), dim3 grid, uint32_t threads, size_t shared_bytes,
                        const Params& params, cudaStream_t stream) {
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = threads;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, params);
}

// The same for a kernel that takes more shared memory than is usual.
template <typename Params>
cudaError_t LaunchLarge(void (*kernel)(Params), dim3 grid, uint32_t threads, size_t shared_bytes,
                        const Params& params, cudaStream_t stream) {
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  if (error != cudaSuccess) return error;
  return LaunchEarly(kernel, grid, threads, shared_bytes, params, stream);
}

}  // namespace palimpsest::cuda
