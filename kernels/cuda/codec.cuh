// SPDX-License-Identifier: Apache-2.0
// Encoders of one block of 16 channels, held by one thread: the bits of kernels/cpu/codec.h, in the
// word order of kernels/layout.h. Divisions are IEEE's and sums go in channel order, because the
// bytes must be equal.
#pragma once

#include <cuda_fp8.h>

#include <cstdint>

#include "kernels/layout.h"

namespace palimpsest::cuda {

// bf16 as it lies in memory: two channels a word.
struct RawBlock {
  uint4 words[2];
};

__device__ __forceinline__ void ToFloats(const RawBlock& raw, float (&x)[kChannelsPerScale]) {
  const uint32_t word[8] = {raw.words[0].x, raw.words[0].y, raw.words[0].z, raw.words[0].w,
                            raw.words[1].x, raw.words[1].y, raw.words[1].z, raw.words[1].w};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    x[2 * i] = __uint_as_float(word[i] << 16);
    x[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
  }
}

__device__ __forceinline__ float MaxMagnitude(const float (&x)[kChannelsPerScale]) {
  float max = 0.0f;
#pragma unroll
  for (const float value : x) max = fmaxf(max, fabsf(value));
  return max;
}

// Two E4M3 codes, the first in the low byte. Saturates. REQUIRES: no NaN.
__device__ __forceinline__ uint32_t ToE4m3Pair(float low, float high) {
  return __nv_cvt_float2_to_fp8x2(make_float2(low, high), __NV_SATFINITE, __NV_E4M3);
}

// The value of a non-negative E4M3 code other than NaN: its bits as an fp32's exponent and top
// mantissa bits, with the bias put right. Subnormals come out by themselves.
__device__ __forceinline__ float FromE4m3(uint32_t code) {
  return __uint_as_float(code << 20) * 0x1p120f;
}

// Encodes `ideal`, a scale, and returns what a reader will see.
template <Format kFormat>
__device__ __forceinline__ float StoreScale(float ideal, uint8_t* code) {
  constexpr float kSecond = SecondLevelScale(kFormat);  // a power of two: dividing is exact
  const uint32_t stored = ToE4m3Pair(ideal * (1.0f / kSecond), 0.0f) & 0xff;
  *code = static_cast<uint8_t>(stored);
  return FromE4m3(stored) * kSecond;
}

__device__ __forceinline__ uint4 EncodeFp8(const float (&x)[kChannelsPerScale], uint8_t* scale) {
  const float s = StoreScale<Format::kFp8>(__fdiv_rn(MaxMagnitude(x), 448.0f), scale);
  uint32_t words[4] = {};
  if (s != 0.0f) {
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const float* of = x + 4 * w;
      words[w] = ToE4m3Pair(__fdiv_rn(of[0], s), __fdiv_rn(of[2], s)) |
                 ToE4m3Pair(__fdiv_rn(of[1], s), __fdiv_rn(of[3], s)) << 16;
    }
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// The magnitude's code. Halfway between neighbours a tie goes to the even one.
__device__ __forceinline__ uint32_t ToE2m1(float value) {
  const float m = fabsf(value);
  return (m > 0.25f) + (m >= 0.75f) + (m > 1.25f) + (m >= 1.75f) + (m > 2.5f) + (m >= 3.5f) +
         (m > 5.0f);
}

__device__ __forceinline__ uint2 EncodeNvfp4(const float (&x)[kChannelsPerScale], uint8_t* scale) {
  const float s = StoreScale<Format::kNvfp4>(__fdiv_rn(MaxMagnitude(x), 6.0f), scale);
  uint32_t words[2] = {};
  if (s != 0.0f) {
#pragma unroll
    for (int i = 0; i < kChannelsPerScale; ++i) {
      const uint32_t sign = __float_as_uint(x[i]) >> 31;  // of the quotient too: s > 0
      words[i / 8] |= ToE2m1(__fdiv_rn(x[i], s)) << ChannelBit(Format::kNvfp4, i) % 32 |
                      sign << Nvfp4SignBit(i) % 32;
    }
  }
  return make_uint2(words[0], words[1]);
}

__device__ __forceinline__ uint2 EncodeInt4(const float (&x)[kChannelsPerScale], uint8_t* scale) {
  const float s = StoreScale<Format::kInt4>(__fdiv_rn(MaxMagnitude(x), 7.0f), scale);
  uint32_t words[2] = {};
  if (s != 0.0f) {
#pragma unroll
    for (int i = 0; i < kChannelsPerScale; ++i) {
      const int nearest = __float2int_rn(fminf(fmaxf(__fdiv_rn(x[i], s), -7.0f), 7.0f));
      words[i / 8] |= (nearest & 15u) << ChannelBit(Format::kInt4, i) % 32;
    }
  }
  return make_uint2(words[0], words[1]);
}

// Threshold and scale as in kernels/cpu/codec.cc.
__device__ __forceinline__ uint32_t EncodeTernary(const float (&x)[kChannelsPerScale],
                                                  uint8_t* scale) {
  constexpr float kLargest = 1e30f;
  float sum = 0.0f;
#pragma unroll
  for (const float value : x) sum = __fadd_rn(sum, fminf(fabsf(value), kLargest));
  const float threshold = __fmul_rn(0.7f, sum * (1.0f / kChannelsPerScale));
  float kept = 0.0f;
  int count = 0;
#pragma unroll
  for (const float value : x) {
    const float m = fminf(fabsf(value), kLargest);
    if (m > threshold) {
      kept = __fadd_rn(kept, m);
      ++count;
    }
  }
  const float ideal = count == 0 ? 0.0f : __fdiv_rn(kept, static_cast<float>(count));
  const float s = StoreScale<Format::kTernary>(ideal, scale);
  uint32_t word = 0;
#pragma unroll
  for (int i = 0; i < kChannelsPerScale; ++i) {
    const uint32_t code = fminf(fabsf(x[i]), kLargest) > threshold ? (x[i] < 0.0f ? 3u : 1u) : 0u;
    word |= code << ChannelBit(Format::kTernary, i);
  }
  return s == 0.0f ? 0 : word;
}

}  // namespace palimpsest::cuda
