// SPDX-License-Identifier: Apache-2.0
// From page bytes to bf16 pairs in registers, one to four integer operations a pair.
//
// A word's even channels lie in its low half and its odd ones in its high half (layout.h), so one
// shift brings channels 2j and 2j + 1 to the top of both halves at once. There the element's bits
// are spread into a bf16: sign to bit 15, exponent and mantissa to the low bits of their fields.
// (nvfp4's lie so that half of its pairs need no spreading.)
// The result is the element times a power of two (its exponent bias differs from bf16's; subnormal
// elements become subnormal bf16, which multiply right). An integer n of int4 becomes the bf16
// 136 + n, whose mantissa ends in its four bits, the sign turned over: one instruction, with the
// mask. One multiplication by the scale, itself brought to kScaleExponent, gives
//
//   pair = value · 2^-FactorExponent(format), exact in bf16,
//
// for int4 with the addition of -136 scales, which is exact too (17 times a scale of 4 bits).
//
// and whoever uses it takes the power of two back in fp32, where that is free: in the softmax scale
// for K, in the exponent of the probabilities for V.
#pragma once

#include <cstdint>

#include "kernels/cuda/tensor_core.cuh"
#include "kernels/layout.h"

namespace palimpsest::cuda {

// Scales are held as stored value · 2^kScaleExponent: far from both ends of bf16's range whatever
// they are multiplied with.
inline constexpr int kScaleExponent = 60;

// log2(value / pair): raw exponent of the element, kScaleExponent and SecondLevelScale together.
template <Format kFormat>
__host__ __device__ constexpr int FactorExponent() {
  switch (kFormat) {
    case Format::kBf16:
      return 0;
    case Format::kFp8:  // raw 2^-120, second level 2^-8
      return 120 - kScaleExponent - 8;
    case Format::kNvfp4:  // raw 2^-126, second level 2^-2
      return 126 - kScaleExponent - 2;
    case Format::kTernary:  // raw 2^1, second level 2^-2
      return -1 - kScaleExponent - 2;
    case Format::kInt4:  // raw 2^0, second level 2^-2
      return -kScaleExponent - 2;
  }
  return 0;
}

__host__ __device__ constexpr float PowerOfTwo(int exponent) {
  float x = 1.0f;
  for (; exponent > 0; --exponent) x *= 2.0f;
  for (; exponent < 0; ++exponent) x *= 0.5f;
  return x;
}

// f.template operator()<kFormat>() of the format.
template <typename F>
__device__ __forceinline__ auto WithFormat(Format format, F&& f) {
  switch (format) {
    case Format::kBf16:
      return f.template operator()<Format::kBf16>();
    case Format::kFp8:
      return f.template operator()<Format::kFp8>();
    case Format::kNvfp4:
      return f.template operator()<Format::kNvfp4>();
    case Format::kTernary:
      return f.template operator()<Format::kTernary>();
    case Format::kInt4:
      return f.template operator()<Format::kInt4>();
  }
  __builtin_unreachable();
}

// The pair of channels (2j, 2j + 1) of a word, before its scale. j < 16 / bits.
template <Format kFormat>
__device__ __forceinline__ uint32_t RawPair(uint32_t word, int j) {
  if constexpr (kFormat == Format::kBf16) {
    return word;
  } else if constexpr (kFormat == Format::kFp8) {  // s eeee mmm
    const uint32_t top = word << (8 - 8 * j);
    return (top & 0x80008000u) | ((top >> 4) & 0x07f007f0u);
  } else if constexpr (kFormat == Format::kNvfp4) {  // s ee m, scattered: layout.h
    if (j == 0) return word & 0x81c081c0u;
    if (j == 1) return (word << 3) & 0x81c081c0u;
    if (j == 2) return ((word << 6) & 0x01c001c0u) | ((word << 1) & 0x80008000u);
    return ((word >> 3) & 0x01c001c0u) | ((word << 2) & 0x80008000u);
  } else if constexpr (kFormat == Format::kTernary) {  // s m: the magnitude is the top bit of the
    return (word << (14 - 2 * j)) & 0xc000c000u;       // exponent, so 2.0
  } else {
    return MaskAndFlip(word >> (4 * j), 0x000f000fu, 0x43084308u);
  }
}

// Two E4M3 scales (non-negative), one in each half's low byte, to a pair of scales
// · 2^kScaleExponent.
__device__ __forceinline__ uint32_t ScalePair(uint32_t bytes) {
  const uint32_t raw = bytes << 4;             // · 2^-120
  constexpr uint32_t kTwoTo127 = 0x7f007f00u;  // bf16 2^127, twice
  constexpr uint32_t kRest = (uint32_t{127 + 120 - 127 + kScaleExponent} << 7) * 0x00010001u;
  return MultiplyBf16(MultiplyBf16(raw, kTwoTo127), kRest);
}

// The pair with its scales, a ScalePair; bf16 needs none.
template <Format kFormat>
__device__ __forceinline__ uint32_t DequantisedPair(uint32_t word, int j, uint32_t scale) {
  const uint32_t raw = RawPair<kFormat>(word, j);
  if constexpr (!HasScales(kFormat)) {
    return raw;
  } else if constexpr (kFormat == Format::kInt4) {
    constexpr uint32_t kMinus136 = 0xc308c308u;
    return MultiplyAddBf16(raw, scale, MultiplyBf16(scale, kMinus136));  // one a scale
  } else {
    return MultiplyBf16(raw, scale);
  }
}

__device__ __forceinline__ uint32_t SplatLow(uint32_t pair) { return __byte_perm(pair, 0, 0x1010); }
__device__ __forceinline__ uint32_t SplatHigh(uint32_t pair) {
  return __byte_perm(pair, 0, 0x3232);
}

// kWords consecutive words with the widest loads their alignment (kWords * 4 bytes) allows.
template <int kWords>
__device__ __forceinline__ void LoadWords(const uint8_t* from, uint32_t (&words)[kWords]) {
  if constexpr (kWords % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kWords; i += 4) {
      const uint4 x = *reinterpret_cast<const uint4*>(from + i * 4);
      words[i] = x.x, words[i + 1] = x.y, words[i + 2] = x.z, words[i + 3] = x.w;
    }
  } else if constexpr (kWords == 2) {
    const uint2 x = *reinterpret_cast<const uint2*>(from);
    words[0] = x.x, words[1] = x.y;
  } else {
    static_assert(kWords == 1);
    words[0] = *reinterpret_cast<const uint32_t*>(from);
  }
}

}  // namespace palimpsest::cuda
