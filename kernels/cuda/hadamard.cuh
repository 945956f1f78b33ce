// SPDX-License-Identifier: Apache-2.0
// The orthonormal Walsh-Hadamard transform of one head, spread over kDim / 16 neighbouring threads:
// thread t holds channels 8t .. 8t + 7 in x[0..7] and those kDim / 2 further on in x[8..15].
//
// It spreads outlier channels over all of them before 4-bit rounding, and is its own inverse, so
// that rotated queries meet rotated keys in the same logits. Butterflies go from stride 1 upwards,
// as on the CPU: the sums then are the same bits.
#pragma once

#include <cstdint>

namespace palimpsest::cuda {

__device__ __forceinline__ void Butterfly(float& a, float& b) {
  const float sum = a + b;
  b = a - b;
  a = sum;
}

// REQUIRES: the threads of `mask`, those of this head among them, call it together.
template <int kDim>
__device__ __forceinline__ void Hadamard(float (&x)[16], uint32_t mask) {
  static_assert(kDim == 64 || kDim == 128);
  constexpr float kNorm = kDim == 64 ? 0.125f : 0.08838834764831845f;  // 1 / sqrt(kDim)
#pragma unroll
  for (int stride = 1; stride < 8; stride *= 2) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      if ((i & stride) == 0) Butterfly(x[i], x[i | stride]);
    }
  }
#pragma unroll
  for (uint32_t thread = 1; thread < kDim / 16; thread *= 2) {  // strides 8 .. kDim / 4
    const bool upper = (threadIdx.x & thread) != 0;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const float other = __shfl_xor_sync(mask, x[i], thread);
      x[i] = upper ? other - x[i] : x[i] + other;
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) Butterfly(x[i], x[i + 8]);
#pragma unroll
  for (float& value : x) value *= kNorm;
}

}  // namespace palimpsest::cuda
