// SPDX-License-Identifier: Apache-2.0
// Keys and values out of pages into books of bf16 rows (operand_book.h), so that the kernels that
// multiply them know nothing of pages and formats: those read a lane's rows many times.
//
// kDim / 16 neighbouring threads have a row, each 8 channels of it and the 8 that RoPE pairs them
// with, as in append.cu.
#pragma once

#include "kernels/cuda/operand_book.h"
#include "kernels/cuda/page_lane.cuh"

namespace palimpsest::cuda {

template <int kDim>
inline constexpr uint32_t kRowThreads = kDim / 16;

// Channels [channel, channel + 8) of a slot's key or value, whose lane's data and scales those are.
// `channel`: a multiple of 8.
template <Format kFormat, int kDim>
__device__ __forceinline__ void DequantiseEight(const uint8_t* lane_data,
                                                const uint8_t* lane_scales, uint32_t slot,
                                                uint32_t channel, float* x) {
  constexpr int kBits = BitsPerElement(kFormat);
  constexpr int kWords = kBits < 4 ? 1 : kBits / 4;
  constexpr int kPairsPerWord = 16 / kBits < 4 ? 16 / kBits : 4;
  const uint8_t* data = lane_data + slot * SlotDataBytes(kFormat, kDim);
  uint32_t words[kWords];
  LoadWords<kWords>(data + channel * kBits / 32 * 4, words);
  // Half a word of ternary: its pairs lie half the halves further up.
  if constexpr (kBits < 4) words[0] >>= channel / 8 % 2 * 8;
  uint32_t scale = 0;
  if constexpr (HasScales(kFormat)) {
    constexpr uint32_t kScales = kDim / kChannelsPerScale;
    scale = ScalePair(lane_scales[slot * kScales + channel / kChannelsPerScale] * 0x00010001u);
  }
  constexpr float kFactor = PowerOfTwo(FactorExponent<kFormat>());
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t pair =
        DequantisedPair<kFormat>(words[i / kPairsPerWord], i % kPairsPerWord, scale);
    x[2 * i] = __uint_as_float(pair << 16) * kFactor;
    x[2 * i + 1] = __uint_as_float(pair & 0xffff0000u) * kFactor;
  }
}

// A row's share of one thread: x[0..7] from channel `channel`, x[8..15] from kDim / 2 further on.
template <int kDim>
__device__ __forceinline__ void LoadRow(Format format, const uint8_t* data, const uint8_t* scales,
                                        uint32_t slot, uint32_t channel, float (&x)[16]) {
  WithFormat(format, [&]<Format kFormat>() {
    DequantiseEight<kFormat, kDim>(data, scales, slot, channel, x);
    DequantiseEight<kFormat, kDim>(data, scales, slot, channel + kDim / 2, x + 8);
  });
}

template <int kDim>
__device__ __forceinline__ void StoreRow(const float (&x)[16], uint32_t row, uint32_t channel,
                                         uint8_t* book) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float* of = x + 8 * half;
    *reinterpret_cast<uint4*>(book + PieceOffset(row, channel + half * (kDim / 2), kDim)) =
        make_uint4(PackBf16(of[0], of[1]), PackBf16(of[2], of[3]), PackBf16(of[4], of[5]),
                   PackBf16(of[6], of[7]));
  }
}

// Of the whole row, in all of its threads, which `mask` names.
template <int kDim>
__device__ __forceinline__ float SumOfSquares(const float (&x)[16], uint32_t mask) {
  float sum = 0.0f;
#pragma unroll
  for (const float value : x) sum = fmaf(value, value, sum);
#pragma unroll
  for (uint32_t d = 1; d < kRowThreads<kDim>; d *= 2) sum += __shfl_xor_sync(mask, sum, d);
  return sum;
}

}  // namespace palimpsest::cuda
