// SPDX-License-Identifier: Apache-2.0
#include "services/cli/likelihood/divergence.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace palimpsest::cli {
namespace {

std::vector<float> RandomLogits(size_t size, float spread, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> logits(size);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

// The definition, in long double.
struct Oracle {
  long double kl = 0, surprise = 0;
};
Oracle Definition(const std::vector<float>& p, const std::vector<float>& q, size_t target) {
  const auto log_sum = [](const std::vector<float>& logits) {
    long double largest = -std::numeric_limits<long double>::infinity(), sum = 0;
    for (const float logit : logits) largest = std::max<long double>(largest, logit);
    for (const float logit : logits) sum += std::exp(static_cast<long double>(logit) - largest);
    return largest + std::log(sum);
  };
  const long double zp = log_sum(p), zq = log_sum(q);
  Oracle oracle;
  for (size_t i = 0; i < p.size(); ++i) {
    oracle.kl += std::exp(p[i] - zp) * ((p[i] - zp) - (q[i] - zq));
  }
  oracle.surprise = zq - q[target];
  return oracle;
}

Divergence CompareRows(const std::vector<float>& p, const std::vector<float>& q, size_t target) {
  ReferenceRow reference;
  EXPECT_TRUE(reference.Read(p));
  return Compare(reference, q, target);
}

TEST(DivergenceTest, EqualRowsDivergeByExactlyNothing) {
  for (const size_t size : {1u, 7u, 128u, 513u, 49152u}) {
    const std::vector<float> row = RandomLogits(size, 5, 1);
    const Divergence same = CompareRows(row, row, size / 2);
    EXPECT_TRUE(same.finite);
    EXPECT_EQ(same.kl, 0.0);
    EXPECT_TRUE(same.agrees);
    EXPECT_EQ(same.surprise, same.full_surprise);
  }
}

TEST(DivergenceTest, ItIsWhatTheDefinitionSays) {
  for (const size_t size : {2u, 13u, 1000u, 49152u}) {
    for (const float noise : {1e-3f, 0.1f, 4.0f}) {
      const std::vector<float> p = RandomLogits(size, 6, 2);
      std::vector<float> q = RandomLogits(size, noise, 3);
      for (size_t i = 0; i < size; ++i) q[i] += p[i];
      const Oracle oracle = Definition(p, q, size - 1);
      const Divergence found = CompareRows(p, q, size - 1);
      const auto kl = static_cast<double>(oracle.kl);
      EXPECT_NEAR(found.kl, kl, 1e-9 * kl + 1e-13) << size << " logits, noise " << noise;
      EXPECT_NEAR(found.surprise, static_cast<double>(oracle.surprise), 1e-11);
    }
  }
}

TEST(DivergenceTest, AShiftOfAllLogitsChangesNothing) {
  const std::vector<float> p = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  std::vector<float> q = p;
  for (float& logit : q) logit += 64;
  EXPECT_NEAR(CompareRows(p, q, 0).kl, 0, 1e-13);
  EXPECT_NEAR(CompareRows(p, q, 0).surprise, CompareRows(p, q, 0).full_surprise, 1e-12);
}

TEST(DivergenceTest, LogitsFarBelowTheLargestAreNoTrouble) {
  std::vector<float> p(20, -1e30f), q(20, 0.0f);
  p[3] = 1e4f;
  q[4] = 3e4f;
  const Divergence found = CompareRows(p, q, 4);
  EXPECT_TRUE(found.finite);
  EXPECT_FALSE(found.agrees);
  EXPECT_NEAR(found.kl, 3e4, 1e-6);
  EXPECT_NEAR(found.surprise, 0, 1e-9);
}

TEST(DivergenceTest, OfEqualLogitsTheLowerIdIsTheLikeliest) {
  std::vector<float> p(30, 1.0f), q(30, 1.0f);
  q[29] = 1.5f;
  EXPECT_TRUE(CompareRows(p, p, 0).agrees);
  EXPECT_FALSE(CompareRows(p, q, 0).agrees);
  p[29] = p[28] = 2.0f;  // 28 is p's
  EXPECT_FALSE(CompareRows(p, q, 0).agrees);
}

TEST(DivergenceTest, WhatIsNotFiniteIsSeenWhereverItIs) {
  const std::vector<float> good = RandomLogits(21, 1, 4);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity()}) {
    for (size_t i = 0; i < good.size(); ++i) {
      std::vector<float> row = good;
      row[i] = bad;
      ReferenceRow reference;
      EXPECT_FALSE(reference.Read(row)) << i;
      EXPECT_FALSE(CompareRows(good, row, 0).finite) << i;
    }
  }
}

TEST(DivergenceTest, ASummaryIsOfAllPositionsAndOfTheLastHalf) {
  std::vector<Divergence> positions(101);
  for (size_t i = 0; i < positions.size(); ++i) {
    positions[i] = {.finite = true,
                    .kl = static_cast<double>(100 - i),
                    .agrees = i < 25,
                    .surprise = 2,
                    .full_surprise = 1};
  }
  const DivergenceSummary summary = Summarise(positions);
  EXPECT_EQ(summary.positions, 101u);
  EXPECT_DOUBLE_EQ(summary.kl_mean, 50);
  EXPECT_DOUBLE_EQ(summary.kl_mean_last_half, 25);
  EXPECT_DOUBLE_EQ(summary.kl_p95, 95);  // 96 of 101 are no worse
  EXPECT_DOUBLE_EQ(summary.agreement, 25.0 / 101);
  EXPECT_DOUBLE_EQ(summary.surprise_mean, 2);
  EXPECT_DOUBLE_EQ(summary.full_surprise_mean, 1);
}

}  // namespace
}  // namespace palimpsest::cli
