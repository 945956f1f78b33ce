// SPDX-License-Identifier: Apache-2.0
#include <cuda_bf16.h>

#include "bench/gpu/random_bits.cuh"
#include "bench/gpu/random_data.h"

namespace palimpsest::bench {
namespace {

__global__ void FillNormalKernel(__nv_bfloat16* data, uint64_t count, float stddev, uint64_t seed) {
  const uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const uint64_t bits = RandomBits(seed, i);
  // Box-Muller. The first uniform is above zero.
  const float radius = sqrtf(-2.0f * logf((static_cast<float>(bits >> 40) + 1.0f) / 16777216.0f));
  const float turn = static_cast<float>(bits & 0xffffff) / 16777216.0f;
  data[i] = __float2bfloat16(stddev * radius * cospif(2.0f * turn));
}

}  // namespace

cudaError_t FillNormal(void* data, uint64_t count, float stddev, uint64_t seed,
                       cudaStream_t stream) {
  constexpr uint64_t kThreads = 256;
  const auto ctas = static_cast<uint32_t>((count + kThreads - 1) / kThreads);
  FillNormalKernel<<<ctas, kThreads, 0, stream>>>(static_cast<__nv_bfloat16*>(data), count, stddev,
                                                  seed);
  return cudaGetLastError();
}

}  // namespace palimpsest::bench
