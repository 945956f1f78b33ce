// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/tile.h"

#include <bit>
#include <cstring>

#include "kernels/cpu/codec.h"
#include "kernels/cpu/simd.h"

namespace palimpsest {
namespace {

using simd::F32;
using simd::I32;
using simd::kWidth;
using simd::Load;
using simd::Store;
using simd::U16;
using simd::U32;
using simd::U8;

// Each Decode... turns the bytes of 16 channels into floats. `scale` is the stored scale alone:
// SecondLevelScale, a power of two, is folded into the constants. Codes of two and four bits go
// through a 16-entry table in one register; LookUp looks at the low four bits only, so that what
// the shift leaves above a code needs no mask. The shifts are ChannelBit's: even channels in a
// word's low half, odd ones in its high half.

KV_ALWAYS_INLINE F32 DecodeBf16(const uint8_t* data) {
  return std::bit_cast<F32>(__builtin_convertvector(Load<U16>(data), U32) << 16);
}

KV_ALWAYS_INLINE F32 DecodeFp8(const uint8_t* data, float scale) {
  static_assert(SecondLevelScale(Format::kFp8) == 0x1p-8f);
  const U8 bytes = Load<U8>(data);
  const U8 ordered =
      __builtin_shufflevector(bytes, bytes, 0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
  const U32 code = __builtin_convertvector(__builtin_convertvector(ordered, U16), U32);
  const U32 magnitude = code & 0x7f;
  // Re-bias the exponent by 120 - 8. Subnormals (code < 8) have no hidden one: give them the
  // exponent of the first normal number and take that number away again. Comparisons are written
  // as arithmetic shifts, which GCC splits well where 512-bit vectors are not to be had.
  const U32 subnormal = std::bit_cast<U32>(std::bit_cast<I32>(magnitude - 8) >> 31);
  const U32 nan = std::bit_cast<U32>(std::bit_cast<I32>(0x7e - magnitude) >> 31);
  const U32 bits = (magnitude << 20) + (112u << 23) + (subnormal & (1u << 23));
  const F32 value = std::bit_cast<F32>(bits | (nan & 0x7fc00000u)) -
                    std::bit_cast<F32>(subnormal & std::bit_cast<uint32_t>(0x1p-14f));
  return std::bit_cast<F32>(std::bit_cast<U32>(value * scale) ^ ((code & 0x80) << 24));
}

// The two words of a block of four-bit elements, the first in the first eight channels.
KV_ALWAYS_INLINE U32 SpreadWords(const uint8_t* data) {
  constexpr uint32_t kAll = ~uint32_t{0};
  constexpr U32 kLow = {kAll, kAll, kAll, kAll, kAll, kAll, kAll, kAll, 0, 0, 0, 0, 0, 0, 0, 0};
  uint32_t low, high;  // loaded one by one, so that they are broadcast from memory
  std::memcpy(&low, data, sizeof(low));
  std::memcpy(&high, data + sizeof(low), sizeof(high));
  const U32 zero = {};
  // Masks and an or: GCC 12 turns a shuffle of two broadcasts into scalar code.
  return ((zero + low) & kLow) | ((zero + high) & ~kLow);
}

KV_ALWAYS_INLINE F32 DecodeNvfp4(const uint8_t* data, float scale) {
  constexpr float kStep = SecondLevelScale(Format::kNvfp4);
  // Twice, for the bit above the magnitude.
  constexpr F32 kTable = {0.0f,         0.5f * kStep, 1.0f * kStep, 1.5f * kStep,
                          2.0f * kStep, 3.0f * kStep, 4.0f * kStep, 6.0f * kStep,
                          0.0f,         0.5f * kStep, 1.0f * kStep, 1.5f * kStep,
                          2.0f * kStep, 3.0f * kStep, 4.0f * kStep, 6.0f * kStep};
  constexpr U32 kShift = {6, 22, 3, 19, 0, 16, 9, 25, 6, 22, 3, 19, 0, 16, 9, 25};
  // From Nvfp4SignBit's to the top of a float.
  constexpr U32 kSignShift = {16, 0, 19, 3, 17, 1, 18, 2, 16, 0, 19, 3, 17, 1, 18, 2};
  const U32 spread = SpreadWords(data);
  const F32 magnitude = simd::LookUp(kTable, std::bit_cast<I32>(spread >> kShift)) * scale;
  const U32 sign = (spread << kSignShift) & 0x80000000u;
  return std::bit_cast<F32>(std::bit_cast<U32>(magnitude) ^ sign);
}

KV_ALWAYS_INLINE F32 DecodeTernary(const uint8_t* data, float scale) {
  constexpr float kOne = SecondLevelScale(Format::kTernary);
  constexpr F32 kTable = {0, kOne, 0, -kOne, 0, kOne, 0, -kOne,  // bits above the code: any
                          0, kOne, 0, -kOne, 0, kOne, 0, -kOne};
  constexpr U32 kShift = {0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30};
  uint32_t word;
  std::memcpy(&word, data, sizeof(word));
  const U32 zero = {};
  return simd::LookUp(kTable, std::bit_cast<I32>((zero + word) >> kShift)) * scale;
}

KV_ALWAYS_INLINE F32 DecodeInt4(const uint8_t* data, float scale) {
  constexpr float kOne = SecondLevelScale(Format::kInt4);
  constexpr F32 kTable = {0,         kOne,      2 * kOne,  3 * kOne,  4 * kOne,  5 * kOne,
                          6 * kOne,  7 * kOne,  -8 * kOne, -7 * kOne, -6 * kOne, -5 * kOne,
                          -4 * kOne, -3 * kOne, -2 * kOne, -kOne};
  constexpr U32 kShift = {0, 16, 4, 20, 8, 24, 12, 28, 0, 16, 4, 20, 8, 24, 12, 28};
  return simd::LookUp(kTable, std::bit_cast<I32>(SpreadWords(data) >> kShift)) * scale;
}

template <Format kFormat>
KV_ALWAYS_INLINE int Dequantise(const uint8_t* data, const uint8_t* scales, uint32_t live,
                                int head_dim, float* out) {
  constexpr size_t kBlockBytes = SlotDataBytes(kFormat, kWidth);
  const int blocks = head_dim / kWidth;
  int tokens = 0;
  for (; live != 0; live &= live - 1, ++tokens) {
    const size_t slot = static_cast<size_t>(std::countr_zero(live));
    const uint8_t* slot_data = data + slot * blocks * kBlockBytes;
    const uint8_t* slot_scales = scales + slot * blocks;
    for (int b = 0; b < blocks; ++b, out += kWidth) {
      const uint8_t* block = slot_data + b * kBlockBytes;
      if constexpr (kFormat == Format::kBf16) {
        Store(DecodeBf16(block), out);
      } else {
        const float scale = kE4m3Values[slot_scales[b]];
        if constexpr (kFormat == Format::kFp8) Store(DecodeFp8(block, scale), out);
        if constexpr (kFormat == Format::kNvfp4) Store(DecodeNvfp4(block, scale), out);
        if constexpr (kFormat == Format::kTernary) Store(DecodeTernary(block, scale), out);
        if constexpr (kFormat == Format::kInt4) Store(DecodeInt4(block, scale), out);
      }
    }
  }
  return tokens;
}

// exp for arguments <= 0, within 2 ulp; below -87 it stays at exp(-87), about 1e-38.
KV_ALWAYS_INLINE float ExpOfNegative(float x) {
  x = x > -87.0f ? x : -87.0f;
  constexpr float kRoundMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = x * 1.44269504f + kRoundMagic;
  const float n = shifted - kRoundMagic;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;  // ln 2 in two parts
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const uint32_t exponent = std::bit_cast<uint32_t>(shifted) << 23;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(p) + exponent);
}

// kDim > 0 fixes head_dim at compile time, so that a row of values lives in registers.
template <int kDim>
KV_ALWAYS_INLINE void Logits(const float* q, const float* keys, int tokens, int head_dim,
                             float scale, float* logits) {
  const int dim = kDim > 0 ? kDim : head_dim;
  for (int t = 0; t < tokens; ++t) {
    F32 sum = {};
    for (int c = 0; c < dim; c += kWidth) sum += Load<F32>(q + c) * Load<F32>(keys + t * dim + c);
    logits[t] = simd::Sum(sum) * scale;
  }
}

template <int kDim>
KV_ALWAYS_INLINE void Fold(const float* q, const float* keys, const float* values, int tokens,
                           int head_dim, float scale, AttentionState* state) {
  const int dim = kDim > 0 ? kDim : head_dim;
  alignas(kTileAlignment) float weights[kSlotsPerPage] = {};
  Logits<kDim>(q, keys, tokens, dim, scale, weights);
  float max = state->max;
  for (int t = 0; t < tokens; ++t) max = max > weights[t] ? max : weights[t];
  // Sixteen always, a whole vector; those past `tokens` come out as anything and are zeroed after.
  for (int t = 0; t < kSlotsPerPage; ++t) weights[t] = ExpOfNegative(weights[t] - max);
  for (int t = tokens; t < kSlotsPerPage; ++t) weights[t] = 0.0f;
  const float keep = state->sum == 0.0f ? 0.0f : ExpOfNegative(state->max - max);
  state->max = max;
  state->sum = state->sum * keep + simd::Sum(Load<F32>(weights));
  if constexpr (kDim > 0) {
    F32 row[kDim / kWidth];
    for (int c = 0; c < kDim; c += kWidth) row[c / kWidth] = Load<F32>(state->values + c) * keep;
    for (int t = 0; t < tokens; ++t) {
      for (int c = 0; c < kDim; c += kWidth) {
        row[c / kWidth] += weights[t] * Load<F32>(values + t * kDim + c);
      }
    }
    for (int c = 0; c < kDim; c += kWidth) Store(row[c / kWidth], state->values + c);
  } else {
    for (int c = 0; c < dim; c += kWidth) {
      F32 column = Load<F32>(state->values + c) * keep;
      for (int t = 0; t < tokens; ++t) column += weights[t] * Load<F32>(values + t * dim + c);
      Store(column, state->values + c);
    }
  }
}

}  // namespace

KV_CPU_CLONES
int DequantiseSlots(Format format, const uint8_t* data, const uint8_t* scales, uint16_t live,
                    int head_dim, float* out) {
  switch (format) {
    case Format::kBf16:
      return Dequantise<Format::kBf16>(data, scales, live, head_dim, out);
    case Format::kFp8:
      return Dequantise<Format::kFp8>(data, scales, live, head_dim, out);
    case Format::kNvfp4:
      return Dequantise<Format::kNvfp4>(data, scales, live, head_dim, out);
    case Format::kTernary:
      return Dequantise<Format::kTernary>(data, scales, live, head_dim, out);
    case Format::kInt4:
      return Dequantise<Format::kInt4>(data, scales, live, head_dim, out);
  }
  return 0;
}

KV_CPU_CLONES
void TileLogits(const float* q, const float* keys, int tokens, int head_dim, float scale,
                float* logits) {
  Logits<0>(q, keys, tokens, head_dim, scale, logits);
}

KV_CPU_CLONES
void FoldTile(const float* q, const float* keys, const float* values, int tokens, int head_dim,
              float scale, AttentionState* state) {
  if (tokens == 0) return;
  switch (head_dim) {
    case 64:
      return Fold<64>(q, keys, values, tokens, head_dim, scale, state);
    case 128:
      return Fold<128>(q, keys, values, tokens, head_dim, scale, state);
    default:
      return Fold<0>(q, keys, values, tokens, head_dim, scale, state);
  }
}

}  // namespace palimpsest
