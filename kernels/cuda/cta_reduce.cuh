// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace palimpsest::cuda {

struct Sum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Largest {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

template <typename T, typename Combine>
__device__ T ReduceWarp(T value, const Combine& combine) {
  for (uint32_t d = 16; d > 0; d /= 2) value = combine(value, __shfl_xor_sync(~0u, value, d));
  return value;
}

// The same value in every thread of a CTA of kWarps warps; combines in a fixed order.
template <uint32_t kWarps, typename T, typename Combine>
__device__ T ReduceCta(T value, const Combine& combine) {
  __shared__ T of_warp[kWarps];
  value = ReduceWarp(value, combine);
  __syncthreads();
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  value = of_warp[0];
  for (uint32_t w = 1; w < kWarps; ++w) value = combine(value, of_warp[w]);
  return value;
}

}  // namespace palimpsest::cuda
