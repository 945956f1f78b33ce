// SPDX-License-Identifier: Apache-2.0
// The device's sampler held against the host's, on the same logits.
#include "services/decode/model/cuda/sampling.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "services/decode/model/counter_random.h"
#include "services/decode/model/model.h"
#include "services/decode/model/sampler.h"
#include "tests/kernels/cuda/gpu_test.h"

namespace palimpsest {
namespace {

using SamplingTest = GpuTest;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Case {
  std::vector<float> logits;
  SamplingParams params;
  uint32_t position = 0;
};

// One launch over cases of the same vocabulary.
std::vector<int32_t> OnDevice(const std::vector<Case>& cases) {
  const size_t vocab = cases.front().logits.size();
  const size_t stride = (vocab + 3) / 4 * 4;
  // Padding holds what no token may be chosen for.
  std::vector<float> logits(stride * cases.size(), kInfinity);
  std::vector<cuda::SampleRow> rows;
  for (size_t i = 0; i < cases.size(); ++i) {
    std::copy(cases[i].logits.begin(), cases[i].logits.end(), logits.begin() + i * stride);
    const SamplingParams& params = cases[i].params;
    rows.push_back({.uniform = CounterUniform(params.seed, cases[i].position),
                    .temperature = params.temperature,
                    .top_k = params.top_k,
                    .top_p = params.top_p,
                    .min_p = params.min_p});
  }
  const DeviceArray<float> on_device(logits);
  const DeviceArray<cuda::SampleRow> params(rows);
  const DeviceArray<int32_t> tokens(cases.size()), again(cases.size());
  EXPECT_EQ(cuda::SampleTokens({.logits = on_device.data(),
                                .stride = static_cast<uint32_t>(stride),
                                .vocab = static_cast<uint32_t>(vocab)},
                               params.data(), cases.size(), kNoToken,
                               {.device = tokens.data(), .host = again.data()}, nullptr),
            cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(tokens.Read(), again.Read());
  return tokens.Read();
}

int32_t OnHost(const Case& sample) {
  const auto token = SampleToken(sample.logits, sample.params, sample.position);
  return token.ok() ? *token : kNoToken;
}

// Tokens that come between two in order of likelihood, and one more.
int Distance(const std::vector<float>& logits, int32_t a, int32_t b) {
  const auto comes_before = [&](int32_t x, int32_t y) {
    return logits[x] != logits[y] ? logits[x] > logits[y] : x < y;
  };
  if (comes_before(b, a)) std::swap(a, b);
  int between = 0;
  for (int32_t i = 0; i < static_cast<int32_t>(logits.size()); ++i) {
    between += comes_before(a, i) && comes_before(i, b) ? 1 : 0;
  }
  return between + 1;
}

// Counts where device and host differ; expects neighbours there.
int CountDifferences(const std::vector<Case>& cases) {
  const std::vector<int32_t> tokens = OnDevice(cases);
  int differences = 0;
  for (size_t i = 0; i < cases.size(); ++i) {
    const int32_t expected = OnHost(cases[i]);
    if (tokens[i] == expected) continue;
    ++differences;
    if (tokens[i] < 0 || expected < 0) {
      ADD_FAILURE() << "case " << i << ": " << tokens[i] << ", not " << expected;
    } else {
      EXPECT_LE(Distance(cases[i].logits, tokens[i], expected), 2) << "case " << i;
    }
  }
  return differences;
}

std::vector<SamplingParams> SomeParams() {
  std::vector<SamplingParams> out = {{}};
  for (const float temperature : {0.3f, 0.6f, 1.0f, 2.5f, 100.0f}) {
    for (const int top_k : {0, 1, 40, 3000}) {
      for (const float top_p : {0.05f, 0.5f, 0.95f, 1.0f}) {
        for (const float min_p : {0.0f, 0.1f, 1.0f}) {
          out.push_back(
              {.temperature = temperature, .top_k = top_k, .top_p = top_p, .min_p = min_p});
        }
      }
    }
  }
  return out;
}

// `draw` makes a logit.
template <typename Draw>
std::vector<Case> SomeCases(size_t vocab, Draw draw) {
  std::mt19937_64 engine(vocab);
  std::vector<Case> out;
  for (const SamplingParams& params : SomeParams()) {
    Case& sample = out.emplace_back(Case{std::vector<float>(vocab), params, 17});
    for (float& logit : sample.logits) logit = draw(engine);
    sample.params.seed = engine();
  }
  return out;
}

TEST_F(SamplingTest, EqualLogitsGiveEqualTokens) {
  int cases = 0, differences = 0;
  for (const size_t vocab : {1, 7, 128, 4001, 32000, 151936}) {
    for (const float spread : {0.5f, 3.0f}) {
      const auto some = SomeCases(vocab, [normal = std::normal_distribution<float>(0.0f, spread)](
                                             auto& engine) mutable { return normal(engine); });
      cases += some.size();
      differences += CountDifferences(some);
    }
  }
  RecordProperty("differences", differences);
  // Probabilities differ by 1e-6: a draw that near to a border is one in a hundred thousand.
  EXPECT_LE(differences, 2) << "of " << cases;
}

TEST_F(SamplingTest, EqualLogitsInOneRowGoToTheLowerId) {
  // Values of few kinds, so that thousands are equal; some are the largest.
  for (const int kinds : {1, 2, 5}) {
    const auto some = SomeCases(30011, [kinds](auto& engine) {
      return static_cast<float>(engine() % kinds) - 1.0f;  // -1, 0 and -0 among them
    });
    EXPECT_EQ(CountDifferences(some), 0) << kinds;
  }
  const auto zeros = SomeCases(5000, [](auto& engine) { return engine() % 2 == 0 ? 0.0f : -0.0f; });
  EXPECT_EQ(CountDifferences(zeros), 0);
}

TEST_F(SamplingTest, LogitsNearEachOtherAreToldApart) {
  // Within one interval of the histogram there are more tokens than are gathered at once. Each has
  // so little of the probability that rounding moves one draw in ten to a neighbour.
  const auto some = SomeCases(100000, [](auto& engine) {
    return 5.0f + 1e-4f * static_cast<float>(engine() % 4096) / 4096.0f;
  });
  EXPECT_LE(CountDifferences(some), static_cast<int>(some.size() / 5));
}

TEST_F(SamplingTest, WhatIsNotFiniteGivesNoToken) {
  const float nan = std::nanf("");
  std::vector<Case> cases;
  for (const float temperature : {0.0f, 0.8f}) {
    for (const float bad : {nan, -nan, kInfinity}) {
      Case& sample = cases.emplace_back(Case{std::vector<float>(6000, 1.0f), {}, 3});
      sample.params.temperature = temperature;
      sample.logits[5990] = bad;
    }
    cases.push_back({std::vector<float>(6000, -kInfinity), {.temperature = temperature}, 3});
  }
  for (const int32_t token : OnDevice(cases)) EXPECT_EQ(token, kNoToken);
  for (const Case& sample : cases) EXPECT_EQ(OnHost(sample), kNoToken);
}

TEST_F(SamplingTest, TokensOfNoProbabilityAreNeverChosen) {
  auto some = SomeCases(2000, [](auto& engine) {
    return engine() % 3 == 0 ? 1.0f + static_cast<float>(engine() % 100) / 50.0f : -kInfinity;
  });
  EXPECT_LE(CountDifferences(some), 1);
  const std::vector<int32_t> tokens = OnDevice(some);
  for (size_t i = 0; i < some.size(); ++i) EXPECT_GT(some[i].logits[tokens[i]], -kInfinity);
}

TEST_F(SamplingTest, TheSameLogitsGiveTheSameTokensEveryTime) {
  const auto some = SomeCases(151936, [normal = std::normal_distribution<float>(0.0f, 2.0f)](
                                          auto& engine) mutable { return normal(engine); });
  const std::vector<int32_t> first = OnDevice(some);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(OnDevice(some), first);
}

}  // namespace
}  // namespace palimpsest
