// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/codec.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include "gtest/gtest.h"

namespace palimpsest {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Encodes one block and reads it back.
std::array<float, 16> RoundTrip(Format format, const std::array<float, 16>& x, uint8_t* scale) {
  std::array<uint8_t, 32> data{};
  EncodeBlock(format, x.data(), data.data(), scale);
  std::array<float, 16> out;
  DecodeSlot(format, data.data(), scale, 16, out.data());
  return out;
}

TEST(Bf16, EveryFiniteCodeComesBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = Bf16ToFloat(static_cast<uint16_t>(bits));
    if (!std::isfinite(value)) continue;
    EXPECT_EQ(FloatToBf16(value), bits);
  }
}

TEST(Bf16, RoundsToNearestAndTiesToEven) {
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f808000u)), 0x3f80);  // tie, down to even
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f818000u)), 0x3f82);  // tie, up to even
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f808001u)), 0x3f81);
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f807fffu)), 0x3f80);
}

TEST(Bf16, WhatIsTooLargeSaturatesAndNanBecomesZero) {
  EXPECT_EQ(FloatToBf16(kInf), 0x7f7f);
  EXPECT_EQ(FloatToBf16(-kInf), 0xff7f);
  EXPECT_EQ(FloatToBf16(std::numeric_limits<float>::max()), 0x7f7f);
  EXPECT_EQ(FloatToBf16(kNan), 0);
}

TEST(E4m3, HasTheValuesOfTheOcpSpecification) {
  EXPECT_EQ(E4m3ToFloat(0x00), 0.0f);
  EXPECT_EQ(E4m3ToFloat(0x01), 0x1p-9f);  // smallest subnormal
  EXPECT_EQ(E4m3ToFloat(0x07), 0.875f * 0x1p-6f);
  EXPECT_EQ(E4m3ToFloat(0x08), 0x1p-6f);  // smallest normal
  EXPECT_EQ(E4m3ToFloat(0x38), 1.0f);
  EXPECT_EQ(E4m3ToFloat(0x3c), 1.5f);
  EXPECT_EQ(E4m3ToFloat(0x7e), 448.0f);  // largest
  EXPECT_EQ(E4m3ToFloat(0xc0), -2.0f);
  EXPECT_TRUE(std::isnan(E4m3ToFloat(0x7f)));
  EXPECT_TRUE(std::isnan(E4m3ToFloat(0xff)));
}

TEST(E4m3, EveryCodeComesBack) {
  for (int code = 0; code < 256; ++code) {
    if ((code & 0x7f) == 0x7f) continue;
    EXPECT_EQ(FloatToE4m3(E4m3ToFloat(static_cast<uint8_t>(code))), code);
  }
}

TEST(E4m3, RoundsMidpointsToTheEvenCodeAndNeighboursToTheNearest) {
  for (int code = 0; code < 0x7e; ++code) {
    const float low = E4m3ToFloat(static_cast<uint8_t>(code));
    const float high = E4m3ToFloat(static_cast<uint8_t>(code + 1));
    const float middle = (low + high) / 2;
    EXPECT_EQ(FloatToE4m3(middle), code % 2 == 0 ? code : code + 1) << code;
    EXPECT_EQ(FloatToE4m3(std::nextafter(middle, 0.0f)), code);
    EXPECT_EQ(FloatToE4m3(std::nextafter(middle, kInf)), code + 1);
    EXPECT_EQ(FloatToE4m3(-std::nextafter(middle, kInf)), (code + 1) | 0x80);
  }
}

TEST(E4m3, SaturatesAndTurnsNanIntoZero) {
  for (const float x : {449.0f, 464.0f, 480.0f, 1e30f, kInf}) {
    EXPECT_EQ(FloatToE4m3(x), 0x7e);
    EXPECT_EQ(FloatToE4m3(-x), 0xfe);
  }
  EXPECT_EQ(FloatToE4m3(kNan), 0);
}

TEST(E2m1, EveryCodeComesBackAndMidpointsGoToTheEvenCode) {
  constexpr float kValues[] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  for (uint8_t code = 0; code < 16; ++code) {
    EXPECT_EQ(std::fabs(E2m1ToFloat(code)), kValues[code & 7]);
    EXPECT_EQ(std::signbit(E2m1ToFloat(code)), code >= 8);
    EXPECT_EQ(FloatToE2m1(E2m1ToFloat(code)), code);
  }
  for (int code = 0; code < 7; ++code) {
    const float middle = (kValues[code] + kValues[code + 1]) / 2;
    EXPECT_EQ(FloatToE2m1(middle), code % 2 == 0 ? code : code + 1) << middle;
    EXPECT_EQ(FloatToE2m1(std::nextafter(middle, 0.0f)), code);
    EXPECT_EQ(FloatToE2m1(std::nextafter(middle, kInf)), code + 1);
  }
  EXPECT_EQ(FloatToE2m1(kInf), 7);
  EXPECT_EQ(FloatToE2m1(-1e9f), 15);
  EXPECT_EQ(FloatToE2m1(kNan), 0);
}

TEST(Ternary, BitZeroIsTheMagnitudeAndBitOneTheSign) {
  EXPECT_EQ(TernaryToFloat(0), 0.0f);
  EXPECT_EQ(TernaryToFloat(1), 1.0f);
  EXPECT_EQ(TernaryToFloat(2), 0.0f);  // never written
  EXPECT_EQ(TernaryToFloat(3), -1.0f);
}

TEST(Int4, EveryCodeComesBackAndMidpointsGoToTheEvenNumber) {
  for (int value = -8; value < 8; ++value) {
    const auto code = static_cast<uint8_t>(value & 15);
    EXPECT_EQ(Int4ToFloat(code), static_cast<float>(value));
    EXPECT_EQ(FloatToInt4(static_cast<float>(value)), value == -8 ? 9 : code);  // -8 is not written
  }
  for (int value = -7; value < 7; ++value) {
    const float middle = static_cast<float>(value) + 0.5f;
    const int even = value % 2 == 0 ? value : value + 1;
    EXPECT_EQ(FloatToInt4(middle), even & 15) << middle;
    EXPECT_EQ(FloatToInt4(std::nextafter(middle, -kInf)), value & 15);
    EXPECT_EQ(FloatToInt4(std::nextafter(middle, kInf)), (value + 1) & 15);
  }
  EXPECT_EQ(FloatToInt4(kInf), 7);
  EXPECT_EQ(FloatToInt4(-1e9f), 9);
  EXPECT_EQ(FloatToInt4(kNan), 0);
}

TEST(Blocks, PackEvenChannelsIntoTheLowHalfOfAWord) {
  std::array<float, 16> x{};
  for (int i = 0; i < 16; ++i) x[i] = 0.5f * static_cast<float>(i % 4);  // 0 .5 1 1.5
  x[15] = -6.0f;
  std::array<uint8_t, 16> data{};
  uint8_t scale = 0;
  EncodeBlock(Format::kNvfp4, x.data(), data.data(), &scale);
  EXPECT_EQ(E4m3ToFloat(scale) / 4, 1.0f);
  // Channels 0 2 4 6 have magnitudes 0 2 0 2 (0 1 0 1 in numbers), channels 1 3 5 7 have 1 3 1 3
  // (.5 1.5 .5 1.5): 0b010'000'010'000 and 0b011'001'011'001.
  const std::array<uint8_t, 8> expected = {0x10, 0x04, 0x59, 0x06, 0x10, 0x04, 0x59, 0x2e};
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), data.begin()));

  for (int i = 0; i < 16; ++i) x[i] = static_cast<float>(i % 15 - 7);  // -7 .. 7, -7
  EncodeBlock(Format::kInt4, x.data(), data.data(), &scale);
  EXPECT_EQ(E4m3ToFloat(scale) / 4, 1.0f);
  // Channels 0 2 4 6 are -7 -5 -3 -1, channels 1 3 5 7 -6 -4 -2 0; 8 and on 1 3 5 7 and 2 4 6 -7.
  const std::array<uint8_t, 8> integers = {0xb9, 0xfd, 0xca, 0x0e, 0x31, 0x75, 0x42, 0x96};
  EXPECT_TRUE(std::equal(integers.begin(), integers.end(), data.begin()));

  x.fill(0.0f);
  x[0] = x[5] = 2.0f;
  x[2] = -2.0f;
  EncodeBlock(Format::kTernary, x.data(), data.data(), &scale);
  EXPECT_EQ(E4m3ToFloat(scale) / 4, 2.0f);
  EXPECT_EQ(data[0], 0b00'00'11'01);  // channels 6 4 2 0
  EXPECT_EQ(data[1], 0);
  EXPECT_EQ(data[2], 0b00'01'00'00);  // channels 7 5 3 1
  EXPECT_EQ(data[3], 0);

  for (int i = 0; i < 16; ++i) x[i] = 448.0f / static_cast<float>(1 << i % 4);
  EncodeBlock(Format::kFp8, x.data(), data.data(), &scale);
  EXPECT_EQ(E4m3ToFloat(scale) / 256, 1.0f);
  for (int word = 0; word < 4; ++word) {  // channels 0 2 1 3
    EXPECT_EQ(E4m3ToFloat(data[4 * word]), 448.0f);
    EXPECT_EQ(E4m3ToFloat(data[4 * word + 1]), 112.0f);
    EXPECT_EQ(E4m3ToFloat(data[4 * word + 2]), 224.0f);
    EXPECT_EQ(E4m3ToFloat(data[4 * word + 3]), 56.0f);
  }
}

// What the order of nvfp4's bits is for: these expressions, which kernels/cuda reads pages with.
TEST(Blocks, PairsOfNvfp4ChannelsAreMasksAndShiftsAwayFromBf16) {
  constexpr std::array<float, 8> kMagnitudes = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  std::mt19937 engine(1);
  for (int trial = 0; trial < 1000; ++trial) {
    std::array<float, 16> x{};
    for (int i = 0; i < 8; ++i) x[i] = kMagnitudes[engine() % 8] * (engine() % 2 ? -1.0f : 1.0f);
    x[8] = 6.0f;  // makes the scale one
    std::array<uint8_t, 8> data{};
    uint8_t scale = 0;
    EncodeBlock(Format::kNvfp4, x.data(), data.data(), &scale);
    const uint32_t w = data[0] | data[1] << 8 | data[2] << 16 | uint32_t{data[3]} << 24;
    const uint32_t pairs[] = {w & 0x81c081c0, (w << 3) & 0x81c081c0,
                              ((w << 6) & 0x01c001c0) | ((w << 1) & 0x80008000),
                              ((w >> 3) & 0x01c001c0) | ((w << 2) & 0x80008000)};
    for (int i = 0; i < 8; ++i) {
      const auto half = static_cast<uint16_t>(pairs[i / 2] >> i % 2 * 16);
      EXPECT_EQ(Bf16ToFloat(half) * 0x1p126f, x[i]) << i;
      EXPECT_EQ(half >> 15, std::signbit(x[i])) << i;
    }
  }
}

// And of int4's: its elements go into the mantissa of a bf16 between 128 and 256, as 136 and more
// or less.
TEST(Blocks, PairsOfInt4ChannelsAreAMaskAndAnExclusiveOrAwayFromBf16) {
  for (uint32_t word = 0; word < 0x10000; ++word) {
    const uint32_t w = word | ~word << 16;
    std::array<uint8_t, 8> data = {};
    for (int i = 0; i < 4; ++i) data[i] = static_cast<uint8_t>(w >> 8 * i);
    constexpr std::array<uint8_t, 1> kOne = {0x48};  // 4, so the scale is one
    std::array<float, 16> x;
    DecodeSlot(Format::kInt4, data.data(), kOne.data(), 16, x.data());
    for (int i = 0; i < 8; ++i) {
      const uint32_t pair = ((w >> i / 2 * 4) & 0x000f000f) ^ 0x43084308;
      ASSERT_EQ(Bf16ToFloat(static_cast<uint16_t>(pair >> i % 2 * 16)) - 136.0f, x[i]) << w;
    }
  }
}

// The rule written down once more: of all scales the one nearest to a seventh of the largest
// channel, of all integers the nearest ones.
TEST(Blocks, Int4TakesTheNearestScaleAndTheNearestIntegers) {
  std::mt19937 engine(4);
  std::normal_distribution<float> normal;
  for (int trial = 0; trial < 1000; ++trial) {
    std::array<float, 16> x;
    double largest = 0;
    const float size = std::exp(4.0f * normal(engine));
    for (float& value : x)
      largest = std::max<double>(largest, std::fabs(value = size * normal(engine)));
    uint8_t scale = 0;
    const auto out = RoundTrip(Format::kInt4, x, &scale);
    double nearest = 0;
    for (uint8_t code = 0; code < 0x7f; ++code) {
      const double candidate = E4m3ToFloat(code) / 4.0;
      if (std::fabs(candidate - largest / 7) < std::fabs(nearest - largest / 7))
        nearest = candidate;
    }
    const double s = E4m3ToFloat(scale) / 4.0;
    EXPECT_LE(std::fabs(s - largest / 7), std::fabs(nearest - largest / 7) * (1 + 1e-6));
    for (int i = 0; i < 16; ++i) {
      double best = std::fabs(x[i]);
      for (int n = -7; n <= 7; ++n) best = std::min(best, std::fabs(n * s - x[i]));
      EXPECT_LE(std::fabs(out[i] - x[i]), best * (1 + 1e-6)) << x[i] / s;
    }
  }
}

TEST(Blocks, ZerosStayZeroAndSoDoBlocksTooSmallForAScale) {
  for (const Format format : kFormats) {
    uint8_t scale = 0xaa;
    for (const float x : RoundTrip(format, {}, &scale)) EXPECT_EQ(x, 0.0f);
    if (!HasScales(format)) continue;
    EXPECT_EQ(scale, 0);
    std::array<float, 16> tiny;
    tiny.fill(1e-20f);
    for (const float x : RoundTrip(format, tiny, &scale)) EXPECT_EQ(x, 0.0f);
  }
}

TEST(Blocks, InfinitiesSaturateToSomethingFinite) {
  for (const Format format : kFormats) {
    std::array<float, 16> x{};
    x[3] = kInf;
    x[4] = -kInf;
    uint8_t scale = 0;
    const auto out = RoundTrip(format, x, &scale);
    for (const float y : out) EXPECT_TRUE(std::isfinite(y));
    EXPECT_GE(out[3], 100.0f) << Name(format);
    EXPECT_EQ(out[4], -out[3]);
    EXPECT_EQ(out[0], 0.0f);
  }
}

TEST(Blocks, ErrorsStayWithinHalfAStepOfTheFormat) {
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  for (int trial = 0; trial < 1000; ++trial) {
    std::array<float, 16> x;
    float amax = 0;
    const float size = std::exp(normal(engine));
    for (float& value : x) amax = std::max(amax, std::fabs(value = size * normal(engine)));
    if (amax < 0.05f) continue;  // below, the scale itself is subnormal and coarse
    uint8_t scale = 0;
    const auto fp8 = RoundTrip(Format::kFp8, x, &scale);
    const auto fp4 = RoundTrip(Format::kNvfp4, x, &scale);
    const auto int4 = RoundTrip(Format::kInt4, x, &scale);
    for (int i = 0; i < 16; ++i) {
      // Half a step of a 3-bit mantissa, and 1/16 more where the rounded scale clips the largest.
      EXPECT_LE(std::fabs(fp8[i] - x[i]), std::max(std::fabs(x[i]) / 15, amax / 448 / 512));
      EXPECT_LE(std::fabs(fp4[i] - x[i]), amax / 6 * 1.07f);
      // Half a step, which the scale's rounding makes at most 1/16 wider.
      EXPECT_LE(std::fabs(int4[i] - x[i]), amax / 14 * 17 / 16 * 1.0001f);
    }
  }
}

TEST(Blocks, TernaryIsWithinFivePercentOfTheBestThreshold) {
  // Why there is no search for the threshold: it would gain 4 % of squared error on Gaussian data.
  std::mt19937 engine(2);
  std::normal_distribution<float> normal;
  double error = 0, best = 0;
  for (int trial = 0; trial < 5000; ++trial) {
    std::array<float, 16> x;
    for (float& value : x) value = normal(engine);
    uint8_t scale = 0;
    const auto out = RoundTrip(Format::kTernary, x, &scale);
    double total = 0;
    for (int i = 0; i < 16; ++i) {
      error += (out[i] - x[i]) * (out[i] - x[i]);
      total += x[i] * x[i];
      x[i] = std::fabs(x[i]);
    }
    std::sort(x.begin(), x.end(), std::greater<>());
    double sum = 0, gain = 0;
    for (int i = 0; i < 16; ++i) {
      sum += x[i];
      gain = std::max(gain, sum * sum / (i + 1));
    }
    best += total - gain;
  }
  EXPECT_LT(error / best, 1.055);  // the rounding of the scale is in it too
}

TEST(Slots, DequantisedValuesAreExactInBf16) {
  // Tensor cores take bf16: nothing is lost on the way.
  std::mt19937 engine(3);
  std::normal_distribution<float> normal;
  for (const Format format : kFormats) {
    for (int trial = 0; trial < 200; ++trial) {
      std::array<float, 16> x;
      for (float& value : x) value = normal(engine);
      uint8_t scale = 0;
      for (const float y : RoundTrip(format, x, &scale)) {
        EXPECT_EQ(Bf16ToFloat(FloatToBf16(y)), y);
      }
    }
  }
}

}  // namespace
}  // namespace palimpsest
