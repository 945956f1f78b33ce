// SPDX-License-Identifier: Apache-2.0
// What the bytes of a slot mean: the scalar codecs every backend must agree with, bit for bit.
//
//   bf16     round to nearest even; what is too large, infinities too, becomes the largest number
//   fp8      E4M3FN (no infinities, 0x7F is NaN), saturating at 448
//   nvfp4    E2M1: 0 .5 1 1.5 2 3 4 6 and a sign, which lies apart from the magnitude
//   ternary  2 bits: bit 0 magnitude, bit 1 sign (so 0b10 reads as zero; it is never written)
//   int4     -7 .. 7 in two's complement (so 0b1000 reads as -8; it is never written)
//
// Where a channel's bits lie: ChannelBit and Nvfp4SignBit in layout.h. All but bf16 have one scale
// byte per 16 channels. A scale byte is a non-negative E4M3 number; the scale is that times
// SecondLevelScale(format). A block whose scale rounds to zero is stored as zeros. Every
// de-quantised value is exact in fp32, and in bf16 too: the products need at most 8 significant
// bits.
//
// Arithmetic is fixed, so that another backend can match the bytes: fp32, IEEE division, sums in
// channel order, ties to even. Pure functions, no state, any thread.
#pragma once

#include <array>
#include <cstdint>
#include <limits>

#include "kernels/layout.h"

namespace palimpsest {

float Bf16ToFloat(uint16_t bits);
// REQUIRES: not NaN (NaN is encoded as zero, so that a slot can never hold one).
uint16_t FloatToBf16(float value);

// A table, because every 16 channels read need one scale.
inline constexpr std::array<float, 256> kE4m3Values = [] {
  std::array<float, 256> table{};
  for (int code = 0; code < 256; ++code) {
    const int exponent = code >> 3 & 15;
    const int mantissa = code & 7;
    float value = (exponent == 0 ? mantissa : 8 + mantissa) / 512.0f;
    for (int e = 1; e < exponent; ++e) value *= 2.0f;
    if ((code & 0x7f) == 0x7f) value = std::numeric_limits<float>::quiet_NaN();
    table[code] = code & 0x80 ? -value : value;
  }
  return table;
}();
inline float E4m3ToFloat(uint8_t code) { return kE4m3Values[code]; }
// Saturates to +-448. REQUIRES: not NaN (encoded as zero).
uint8_t FloatToE4m3(float value);

float E2m1ToFloat(uint8_t code);  // code in 0..15: bit 3 the sign, bits 2..0 the magnitude
uint8_t FloatToE2m1(float value);

float TernaryToFloat(uint8_t code);  // code in 0..3

float Int4ToFloat(uint8_t code);  // code in 0..15
uint8_t FloatToInt4(float value);

// Encodes 16 channels `x` of one slot. `data` has 16 * BitsPerElement / 8 bytes; `scale` one byte
// (left alone for bf16).
void EncodeBlock(Format format, const float* x, uint8_t* data, uint8_t* scale);

// Encodes one slot: head_dim values to SlotDataBytes and SlotScaleBytes.
void EncodeSlot(Format format, const float* x, int head_dim, uint8_t* data, uint8_t* scales);

// De-quantises one slot. The plain version; kernels/cpu/tile.h has the quick one, tested equal.
void DecodeSlot(Format format, const uint8_t* data, const uint8_t* scales, int head_dim,
                float* out);

}  // namespace palimpsest
