// SPDX-License-Identifier: Apache-2.0
// Scalings are held against transformers by cpu_model_test; here are the parts by themselves.
#include "services/decode/model/rope.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"

namespace palimpsest {
namespace {

TEST(Rope, UnscaledFrequenciesFallGeometricallyFromOne) {
  const auto frequencies = InverseFrequencies({.theta = 10000.0}, 64);
  ASSERT_EQ(frequencies.size(), 32u);
  EXPECT_EQ(frequencies[0], 1.0f);
  for (int i = 0; i < 32; ++i) {
    EXPECT_NEAR(frequencies[i], std::pow(10000.0, -i / 32.0), 1e-7);
  }
}

TEST(Rope, LinearScalingDividesEveryFrequency) {
  const auto plain = InverseFrequencies({.theta = 1e4}, 32);
  const auto scaled =
      InverseFrequencies({.theta = 1e4, .scaling = RopeScaling::kLinear, .factor = 4.0}, 32);
  for (size_t i = 0; i < plain.size(); ++i) EXPECT_FLOAT_EQ(scaled[i], plain[i] / 4);
}

TEST(Rope, Llama3AndYarnKeepFastFrequenciesAndDivideSlowOnes) {
  for (const RopeScaling scaling : {RopeScaling::kLlama3, RopeScaling::kYarn}) {
    const RopeConfig rope = {
        .theta = 500000.0, .scaling = scaling, .factor = 8.0, .original_max_positions = 8192};
    const auto plain = InverseFrequencies({.theta = 500000.0}, 128);
    const auto scaled = InverseFrequencies(rope, 128);
    EXPECT_EQ(scaled.front(), plain.front());
    EXPECT_FLOAT_EQ(scaled.back(), plain.back() / 8);
    for (size_t i = 1; i < scaled.size(); ++i) EXPECT_LT(scaled[i], scaled[i - 1]);
  }
}

TEST(Rope, TurnsPairsHalfAHeadApartAndKeepsTheirLength) {
  RotaryTable table({.theta = 10000.0}, 16, 1);
  table.Set(0, 3);
  std::vector<float> x(32);
  for (int i = 0; i < 32; ++i) x[i] = 0.1f * i - 1;
  const std::vector<float> before = x;
  table.Rotate(0, 2, x.data());
  const float angle = 3.0f;  // pair 0 turns by one radian a token
  EXPECT_NEAR(x[0], before[0] * std::cos(angle) - before[8] * std::sin(angle), 1e-6);
  EXPECT_NEAR(x[8], before[8] * std::cos(angle) + before[0] * std::sin(angle), 1e-6);
  for (int head = 0; head < 2; ++head) {
    for (int i = head * 16; i < head * 16 + 8; ++i) {
      EXPECT_NEAR(std::hypot(x[i], x[i + 8]), std::hypot(before[i], before[i + 8]), 1e-6);
    }
  }
}

TEST(Rope, UnrotateTakesRotateBackAtAnyPositionAndWithAnAttentionFactor) {
  const RopeConfig yarn = {.theta = 10000.0,
                           .scaling = RopeScaling::kYarn,
                           .factor = 4.0,
                           .original_max_positions = 4096,
                           .attention_factor = 1.1386};
  for (const RopeConfig& rope : {RopeConfig{.theta = 500000.0}, yarn}) {
    RotaryTable table(rope, 128, 4);
    const uint32_t positions[] = {0, 1, 4095, 131071};
    for (int row = 0; row < 4; ++row) {
      table.Set(row, positions[row]);
      std::vector<float> x(256);
      for (int i = 0; i < 256; ++i) x[i] = std::sin(0.7f * i) * 4;
      const std::vector<float> before = x;
      table.Rotate(row, 2, x.data());
      table.Unrotate(row, 2, x.data());
      for (int i = 0; i < 256; ++i) EXPECT_NEAR(x[i], before[i], 1e-5) << positions[row];
    }
  }
}

TEST(Rope, DotProductsDependOnDistanceAlone) {
  const std::vector<float> q = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7};
  const auto dot_at = [&](uint32_t a, uint32_t b) {
    RotaryTable table({.theta = 10000.0}, 16, 2);
    table.Set(0, a);
    table.Set(1, b);
    std::vector<float> x = q, y = q;
    table.Rotate(0, 1, x.data());
    table.Rotate(1, 1, y.data());
    float dot = 0;
    for (int i = 0; i < 16; ++i) dot += x[i] * y[i];
    return dot;
  };
  EXPECT_NEAR(dot_at(0, 7), dot_at(1000, 1007), 0.05);
}

}  // namespace
}  // namespace palimpsest
