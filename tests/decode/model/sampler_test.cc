// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/sampler.h"

#include <cmath>
#include <map>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace palimpsest {
namespace {

using testing::HasSubstr;

const std::vector<float> kLogits = {1.0f, 3.0f, 2.0f, -1.0f, 2.5f, 0.0f};

int32_t Sample(const SamplingParams& params, uint32_t position) {
  const auto token = SampleToken(kLogits, params, position);
  EXPECT_TRUE(token.ok()) << token.status();
  return token.ok() ? *token : -1;
}

// Which tokens ever come, and how often, in `draws` positions.
std::map<int32_t, int> Histogram(const SamplingParams& params, int draws) {
  std::map<int32_t, int> counts;
  for (int position = 0; position < draws; ++position) ++counts[Sample(params, position)];
  return counts;
}

std::set<int32_t> Support(const SamplingParams& params) {
  std::set<int32_t> tokens;
  for (const auto& [token, count] : Histogram(params, 5000)) tokens.insert(token);
  return tokens;
}

TEST(Sampler, ZeroTemperatureTakesTheLikeliestAndTheLowestIdOfEquals) {
  EXPECT_EQ(Sample({}, 0), 1);
  EXPECT_EQ(*SampleToken({2.0f, 5.0f, 5.0f}, {}, 9), 1);
}

TEST(Sampler, DrawsFollowTheSoftmaxOfTheScaledLogits) {
  for (const float temperature : {0.5f, 1.0f, 2.0f}) {
    double total = 0;
    for (const float logit : kLogits) total += std::exp(logit / temperature);
    const int draws = 40000;
    const auto counts = Histogram({.temperature = temperature, .seed = 5}, draws);
    for (size_t i = 0; i < kLogits.size(); ++i) {
      const double expected = std::exp(kLogits[i] / temperature) / total;
      const double seen = counts.count(i) > 0 ? counts.at(i) / double{draws} : 0.0;
      EXPECT_NEAR(seen, expected, 4 * std::sqrt(expected / draws)) << i;
    }
  }
}

TEST(Sampler, FiltersKeepWhatTheySay) {
  EXPECT_EQ(Support({.temperature = 1, .top_k = 3}), (std::set<int32_t>{1, 2, 4}));
  EXPECT_EQ(Support({.temperature = 1, .top_k = 1}), (std::set<int32_t>{1}));
  // Probabilities 0.43, 0.26, 0.16, 0.06, ...: two reach 0.6, three 0.8.
  EXPECT_EQ(Support({.temperature = 1, .top_p = 0.6f}), (std::set<int32_t>{1, 4}));
  EXPECT_EQ(Support({.temperature = 1, .top_p = 0.8f}), (std::set<int32_t>{1, 2, 4}));
  EXPECT_EQ(Support({.temperature = 1, .top_p = 1e-6f}), (std::set<int32_t>{1}));
  // Shares of the likeliest: 1, e^-0.5, e^-1, e^-2, ...
  EXPECT_EQ(Support({.temperature = 1, .min_p = 0.5f}), (std::set<int32_t>{1, 4}));
  EXPECT_EQ(Support({.temperature = 1, .min_p = 1.0f}), (std::set<int32_t>{1}));
  EXPECT_EQ(Support({.temperature = 1}).size(), kLogits.size());
}

TEST(Sampler, ATokenDependsOnSeedAndPositionAlone) {
  const SamplingParams params = {.temperature = 1, .seed = 42};
  std::vector<int32_t> forward, backward;
  for (uint32_t p = 0; p < 100; ++p) forward.push_back(Sample(params, p));
  for (uint32_t p = 100; p-- > 0;) backward.insert(backward.begin(), Sample(params, p));
  EXPECT_EQ(forward, backward);
  std::vector<int32_t> other;
  for (uint32_t p = 0; p < 100; ++p) other.push_back(Sample({.temperature = 1, .seed = 43}, p));
  EXPECT_NE(forward, other);
}

TEST(Sampler, ALogitThatIsNotANumberIsDataLossWhateverTheSettings) {
  for (const float temperature : {0.0f, 1.0f}) {
    for (const std::vector<float>& logits :
         {std::vector<float>{1, NAN, 2}, {NAN, 1, 2}, {INFINITY, 1}, {-INFINITY, -INFINITY}}) {
      EXPECT_EQ(SampleToken(logits, {.temperature = temperature}, 0).status().code(),
                absl::StatusCode::kDataLoss);
    }
  }
}

TEST(Sampler, AMaskedLogitIsNeverDrawn) {
  for (uint32_t p = 0; p < 1000; ++p) {
    EXPECT_EQ(*SampleToken({-INFINITY, 0.0f, -INFINITY}, {.temperature = 50}, p), 1);
  }
}

TEST(Sampler, ParametersOutOfRangeAreNamed) {
  EXPECT_TRUE(CheckSamplingParams({}).ok());
  EXPECT_THAT(CheckSamplingParams({.temperature = -1}).ToString(), HasSubstr("temperature"));
  EXPECT_THAT(CheckSamplingParams({.temperature = NAN}).ToString(), HasSubstr("temperature"));
  EXPECT_THAT(CheckSamplingParams({.top_k = -1}).ToString(), HasSubstr("top_k"));
  EXPECT_THAT(CheckSamplingParams({.top_p = 0}).ToString(), HasSubstr("top_p"));
  EXPECT_THAT(CheckSamplingParams({.top_p = NAN}).ToString(), HasSubstr("top_p"));
  EXPECT_THAT(CheckSamplingParams({.min_p = 1.5f}).ToString(), HasSubstr("min_p"));
}

}  // namespace
}  // namespace palimpsest
