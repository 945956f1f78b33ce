// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/kmeans.h"

#include <random>
#include <set>

#include "gtest/gtest.h"
#include "kernels/cpu/codec.h"
#include "tests/kernels/reference.h"

namespace palimpsest {
namespace {

TEST(KMeansMedoids, EqualsALiteralTranscriptionOverSeeds) {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    const uint32_t tokens = 1 + engine() % 128, keep = 1 + engine() % tokens;
    const uint32_t width = 16 * (1 + engine() % 8);
    std::vector<float> keys(tokens * width);
    // Clustered on odd seeds, as keys of neighbouring tokens are.
    for (uint32_t i = 0; i < tokens; ++i) {
      for (uint32_t c = 0; c < width; ++c) {
        const float x = normal(engine) + (seed % 2) * static_cast<float>(i / 8 * 7 % 5);
        keys[i * width + c] = Bf16ToFloat(FloatToBf16(x));
      }
    }
    std::vector<reference::Vector> rows;
    for (uint32_t i = 0; i < tokens; ++i) {
      rows.emplace_back(keys.begin() + i * width, keys.begin() + (i + 1) * width);
    }
    EXPECT_EQ(KMeansMedoids(keys, tokens, width, keep), reference::KMeansMedoids(rows, keep))
        << "seed " << seed;
  }
}

TEST(KMeansMedoids, IdenticalKeysYieldTheEarliestTokens) {
  const std::vector<float> keys(10 * 16, 2.5f);
  EXPECT_EQ(KMeansMedoids(keys, 10, 16, 3), (std::vector<uint32_t>{0, 1, 2}));
}

TEST(KMeansMedoids, KeepingAllKeepsAll) {
  std::vector<float> keys(5 * 16);
  for (size_t i = 0; i < keys.size(); ++i) keys[i] = static_cast<float>(i % 16);
  EXPECT_EQ(KMeansMedoids(keys, 5, 16, 5), (std::vector<uint32_t>{0, 1, 2, 3, 4}));
}

TEST(KMeansMedoids, KeysTooFarApartForFloatStillYieldDistinctTokens) {
  std::vector<float> keys(8 * 16);
  for (size_t i = 0; i < keys.size(); ++i) keys[i] = (i / 16 % 2 == 0 ? 1.0f : -1.0f) * 3e38f;
  const auto chosen = KMeansMedoids(keys, 8, 16, 5);
  EXPECT_EQ(std::set<uint32_t>(chosen.begin(), chosen.end()).size(), 5u);
}

}  // namespace
}  // namespace palimpsest
