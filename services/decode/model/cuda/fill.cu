// SPDX-License-Identifier: Apache-2.0
// One element a thread and round; bound by integer arithmetic (two 64-bit mixes an element), about
// 0.1 s for the 16 GB of an 8B model.
#include <cuda_bf16.h>

#include "services/decode/model/counter_random.h"
#include "services/decode/model/cuda/fill.h"

namespace palimpsest::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kCtas = 132 * 8;

__device__ float Element(const SyntheticTensor& values, uint64_t index) {
  if (values.ones) return 1.0f;
  const double uniform = CounterUniform(values.stream, index);
  return values.bound * static_cast<float>(2.0 * uniform - 1.0);
}

template <typename T>
__global__ void FillKernel(SyntheticTensor values, T* out, uint64_t count) {
  const uint64_t stride = uint64_t{gridDim.x} * kThreads;
  for (uint64_t i = uint64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += stride) {
    out[i] = static_cast<T>(Element(values, i));
  }
}

}  // namespace

cudaError_t FillUniform(const SyntheticTensor& values, void* out, bool is_float, uint64_t count,
                        cudaStream_t stream) {
  if (is_float) {
    FillKernel<<<kCtas, kThreads, 0, stream>>>(values, static_cast<float*>(out), count);
  } else {
    FillKernel<<<kCtas, kThreads, 0, stream>>>(values, static_cast<__nv_bfloat16*>(out), count);
  }
  return cudaGetLastError();
}

}  // namespace palimpsest::cuda
