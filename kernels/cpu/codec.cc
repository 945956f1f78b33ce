// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/codec.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace palimpsest {
namespace {

constexpr int kBlock = kChannelsPerScale;
constexpr float kE4m3Max = 448.0f;
constexpr float kE2m1Max = 6.0f;
constexpr float kInt4Max = 7.0f;

float MaxMagnitude(const float* x) {
  float amax = 0.0f;
  for (int i = 0; i < kBlock; ++i) amax = std::max(amax, std::fabs(x[i]));
  return amax;
}

// Bits of a slot or block from number `bit` on: inside one word, but not always inside one byte.
// REQUIRES: they are zero.
void PutBits(int bit, uint32_t bits, uint8_t* data) {
  uint32_t word;
  std::memcpy(&word, data + bit / 32 * 4, sizeof(word));
  word |= bits << bit % 32;
  std::memcpy(data + bit / 32 * 4, &word, sizeof(word));
}

// The bits of a word from number `bit` on; they start at the result's bit 0.
uint32_t BitsFrom(int bit, const uint8_t* data) {
  uint32_t word;
  std::memcpy(&word, data + bit / 32 * 4, sizeof(word));
  return word >> bit % 32;
}

// Puts the code of a channel into the data of its slot or block. REQUIRES: its bits are zero.
void PutCode(Format format, int channel, uint8_t code, uint8_t* data) {
  const bool apart = format == Format::kNvfp4;  // sign and magnitude
  PutBits(ChannelBit(format, channel), apart ? code & 7 : code, data);
  if (apart) PutBits(Nvfp4SignBit(channel), code >> 3, data);
}

// The code of a channel; the bits above it are not part of it.
uint8_t CodeAt(Format format, int channel, const uint8_t* data) {
  const uint32_t code = BitsFrom(ChannelBit(format, channel), data);
  if (format != Format::kNvfp4) return static_cast<uint8_t>(code);
  return static_cast<uint8_t>((code & 7) | BitsFrom(Nvfp4SignBit(channel), data) << 3);
}

// Encodes `ideal` (a scale) and returns what a reader will see.
float StoreScale(Format format, float ideal, uint8_t* scale) {
  *scale = FloatToE4m3(ideal / SecondLevelScale(format));
  return E4m3ToFloat(*scale) * SecondLevelScale(format);
}

// Scaled so that the largest channel becomes `most`, the largest element there is.
template <Format kFormat, auto kToCode>
void EncodeScaled(const float* x, float most, uint8_t* data, uint8_t* scale) {
  const float s = StoreScale(kFormat, MaxMagnitude(x) / most, scale);
  std::memset(data, 0, SlotDataBytes(kFormat, kBlock));
  if (s == 0.0f) return;
  for (int i = 0; i < kBlock; ++i) PutCode(kFormat, i, kToCode(x[i] / s), data);
}

// Threshold 0.7 mean |x|, scale = mean |x| above it (ternary weight networks). An exhaustive search
// over thresholds lowers the squared error of Gaussian blocks by 4 % only (README), so the rule
// that a GPU thread does without a sort stays.
void EncodeTernary(const float* x, uint8_t* data, uint8_t* scale) {
  constexpr float kLargest = 1e30f;  // the sum of 16 stays finite
  float magnitude[kBlock];
  float sum = 0.0f;
  for (int i = 0; i < kBlock; ++i) {
    magnitude[i] = std::min(std::fabs(x[i]), kLargest);
    sum += magnitude[i];
  }
  const float threshold = 0.7f * (sum / kBlock);
  float kept = 0.0f;
  int count = 0;
  for (int i = 0; i < kBlock; ++i) {
    if (magnitude[i] > threshold) {
      kept += magnitude[i];
      ++count;
    }
  }
  const float s = StoreScale(Format::kTernary, count == 0 ? 0.0f : kept / count, scale);
  std::memset(data, 0, SlotDataBytes(Format::kTernary, kBlock));
  if (s == 0.0f) return;
  for (int i = 0; i < kBlock; ++i) {
    if (magnitude[i] <= threshold) continue;
    PutCode(Format::kTernary, i, x[i] < 0.0f ? 3 : 1, data);
  }
}

}  // namespace

float Bf16ToFloat(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

uint16_t FloatToBf16(float value) {
  if (std::isnan(value)) return 0;
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  const bool overflow = (rounded & 0x7fff) >= 0x7f80;
  return static_cast<uint16_t>(overflow ? (rounded & 0x8000) | 0x7f7f : rounded);
}

uint8_t FloatToE4m3(float value) {
  if (std::isnan(value)) return 0;
  const uint8_t sign = std::signbit(value) ? 0x80 : 0;
  const float magnitude = std::fabs(value);
  if (magnitude >= kE4m3Max) return sign | 0x7e;
  // Below the first normal number codes are multiples of 2^-9; code 8 is that number itself, so
  // rounding up to it needs no special case.
  if (magnitude < 0x1p-6f) return sign | static_cast<uint8_t>(std::nearbyint(magnitude * 0x1p9f));
  const uint32_t bits = std::bit_cast<uint32_t>(magnitude);
  const uint32_t rounded = bits + 0x7ffff + (bits >> 20 & 1);
  return sign | static_cast<uint8_t>((rounded >> 20) - (120 << 3));
}

float E2m1ToFloat(uint8_t code) {
  static constexpr float kMagnitudes[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  const float magnitude = kMagnitudes[code & 7];
  return code & 8 ? -magnitude : magnitude;
}

uint8_t FloatToE2m1(float value) {
  if (std::isnan(value)) return 0;
  const float m = std::fabs(value);
  // Midpoints between neighbours; a tie goes to the even code.
  const int code = (m > 0.25f) + (m >= 0.75f) + (m > 1.25f) + (m >= 1.75f) + (m > 2.5f) +
                   (m >= 3.5f) + (m > 5.0f);
  return static_cast<uint8_t>(code | (std::signbit(value) ? 8 : 0));
}

float TernaryToFloat(uint8_t code) {
  static constexpr float kValues[4] = {0.0f, 1.0f, 0.0f, -1.0f};
  return kValues[code & 3];
}

float Int4ToFloat(uint8_t code) { return static_cast<float>(((code & 15) ^ 8) - 8); }

uint8_t FloatToInt4(float value) {
  if (std::isnan(value)) return 0;
  const float nearest = std::nearbyint(std::clamp(value, -kInt4Max, kInt4Max));
  return static_cast<uint8_t>(static_cast<int>(nearest) & 15);
}

void EncodeBlock(Format format, const float* x, uint8_t* data, uint8_t* scale) {
  switch (format) {
    case Format::kBf16:
      for (int i = 0; i < kBlock; ++i) {
        const uint16_t bits = FloatToBf16(x[i]);
        data[2 * i] = static_cast<uint8_t>(bits & 0xff);
        data[2 * i + 1] = static_cast<uint8_t>(bits >> 8);
      }
      return;
    case Format::kFp8:
      return EncodeScaled<Format::kFp8, FloatToE4m3>(x, kE4m3Max, data, scale);
    case Format::kNvfp4:
      return EncodeScaled<Format::kNvfp4, FloatToE2m1>(x, kE2m1Max, data, scale);
    case Format::kTernary:
      return EncodeTernary(x, data, scale);
    case Format::kInt4:
      return EncodeScaled<Format::kInt4, FloatToInt4>(x, kInt4Max, data, scale);
  }
}

void EncodeSlot(Format format, const float* x, int head_dim, uint8_t* data, uint8_t* scales) {
  const size_t block_bytes = SlotDataBytes(format, kBlock);
  for (int b = 0; b < head_dim / kBlock; ++b) {
    uint8_t* scale = HasScales(format) ? scales + b : nullptr;
    EncodeBlock(format, x + b * kBlock, data + b * block_bytes, scale);
  }
}

void DecodeSlot(Format format, const uint8_t* data, const uint8_t* scales, int head_dim,
                float* out) {
  for (int c = 0; c < head_dim; ++c) {
    const float scale =
        HasScales(format) ? E4m3ToFloat(scales[c / kBlock]) * SecondLevelScale(format) : 1.0f;
    switch (format) {
      case Format::kBf16:
        out[c] = Bf16ToFloat(static_cast<uint16_t>(data[2 * c] | data[2 * c + 1] << 8));
        break;
      case Format::kFp8:
        out[c] = E4m3ToFloat(CodeAt(format, c, data)) * scale;
        break;
      case Format::kNvfp4:
        out[c] = E2m1ToFloat(CodeAt(format, c, data) & 15) * scale;
        break;
      case Format::kTernary:
        out[c] = TernaryToFloat(CodeAt(format, c, data) & 3) * scale;
        break;
      case Format::kInt4:
        out[c] = Int4ToFloat(CodeAt(format, c, data) & 15) * scale;
        break;
    }
  }
}

}  // namespace palimpsest
