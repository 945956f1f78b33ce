// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/cuda/elementwise.h"

#include <cuda_bf16.h>

#include <cmath>
#include <random>
#include <vector>

#include "services/decode/model/elementwise.h"
#include "services/decode/model/model.h"
#include "tests/kernels/cuda/gpu_test.h"

namespace palimpsest {
namespace {

using ElementwiseTest = GpuTest;
using Bf16 = __nv_bfloat16;
constexpr float kEps = 1e-5f;
constexpr double kBf16Error = 0x1p-8;  // relative, of one rounding, with room for the arithmetic

std::vector<float> Normal(size_t size, int seed) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> out(size);
  for (float& x : out) x = normal(engine);
  return out;
}
std::vector<Bf16> Rounded(const std::vector<float>& x) {
  std::vector<Bf16> out;
  for (const float value : x) out.push_back(__float2bfloat16_rn(value));
  return out;
}
std::vector<float> Floats(const std::vector<Bf16>& x) {
  std::vector<float> out;
  for (const Bf16 value : x) out.push_back(__bfloat162float(value));
  return out;
}

void ExpectNear(const std::vector<Bf16>& found, const std::vector<float>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(__bfloat162float(found[i]), expected[i], kBf16Error * std::abs(expected[i]) + 1e-6)
        << "at " << i;
  }
}

// RMSNorm of chosen rows, by the CPU model's own function.
std::vector<float> NormOfRows(const std::vector<float>& x, const std::vector<uint32_t>& rows,
                              const std::vector<float>& weight) {
  const size_t hidden = weight.size();
  std::vector<float> out(rows.size() * hidden);
  for (size_t i = 0; i < rows.size(); ++i) {
    RmsNorm(&x[rows[i] * hidden], weight.data(), kEps, hidden, &out[i * hidden]);
  }
  return out;
}

TEST_F(ElementwiseTest, NormsOfAllRowsOrOfChosenOnesAreThoseOfTheCpu) {
  for (const int hidden : {8, 256, 576, 1536, 4096, 5120, 16384}) {
    ASSERT_TRUE(cuda::ElementwiseSupports(hidden));
    constexpr uint32_t kRows = 5;
    const std::vector<float> x = Normal(kRows * hidden, hidden);
    const std::vector<Bf16> weight = Rounded(Normal(hidden, 1));
    const DeviceArray<float> residual(x);
    const DeviceArray<Bf16> scale(weight), normed(kRows * hidden), gathered(3 * hidden);
    const DeviceArray<uint32_t> source(std::vector<uint32_t>{4, 0, 4});
    const cuda::RmsNormWeight norm = {.weight = scale.data(), .eps = kEps, .hidden = hidden};
    ASSERT_EQ(cuda::RmsNorm(residual.data(), norm, normed.data(), kRows, nullptr), cudaSuccess);
    ASSERT_EQ(
        cuda::GatherRmsNorm(residual.data(), source.data(), norm, gathered.data(), 3, nullptr),
        cudaSuccess);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    ExpectNear(normed.Read(), NormOfRows(x, {0, 1, 2, 3, 4}, Floats(weight)));
    ExpectNear(gathered.Read(), NormOfRows(x, {4, 0, 4}, Floats(weight)));
  }
}

TEST_F(ElementwiseTest, ManyRowsHaveTheNormsTheyHaveAlone) {
  for (const int hidden : {256, 4096, 5120, 16384}) {
    constexpr uint32_t kRows = 300;
    const DeviceArray<float> residual(Normal(kRows * hidden, hidden));
    const DeviceArray<Bf16> scale(Rounded(Normal(hidden, 1))), many(kRows * hidden), one(hidden);
    const cuda::RmsNormWeight norm = {.weight = scale.data(), .eps = kEps, .hidden = hidden};
    ASSERT_EQ(cuda::RmsNorm(residual.data(), norm, many.data(), kRows, nullptr), cudaSuccess);
    const float* last = residual.data() + size_t{kRows - 1} * hidden;
    ASSERT_EQ(cuda::RmsNorm(last, norm, one.data(), 1, nullptr), cudaSuccess);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    const std::vector<Bf16> all = many.Read();
    // The order of the sum differs with the number of threads, and an element in its last bit.
    ExpectNear({all.end() - hidden, all.end()}, Floats(one.Read()));
  }
}

TEST_F(ElementwiseTest, EmbeddingsBecomeTheResidualStreamAndItsNorm) {
  constexpr int kHidden = 576, kVocab = 40;
  const std::vector<Bf16> table = Rounded(Normal(kVocab * kHidden, 2));
  const std::vector<Bf16> weight = Rounded(Normal(kHidden, 3));
  // The third is the second chosen, the last one that is none.
  const std::vector<int32_t> ids = {39, 0, 7, 0}, given = {39, 0, ChosenBefore(1), ChosenBefore(2)};
  const DeviceArray<Bf16> embedding(table), scale(weight), normed(ids.size() * kHidden);
  const DeviceArray<int32_t> tokens(given), chosen(std::vector<int32_t>{5, 7, kNoToken});
  const DeviceArray<float> residual(ids.size() * kHidden);
  ASSERT_EQ(cuda::Embed({.ids = tokens.data(), .chosen = chosen.data()}, embedding.data(),
                        {.weight = scale.data(), .eps = kEps, .hidden = kHidden}, residual.data(),
                        normed.data(), ids.size(), nullptr),
            cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  const std::vector<float> rows = residual.Read(), all = Floats(table);
  for (size_t i = 0; i < rows.size(); ++i) {
    ASSERT_EQ(rows[i], all[ids[i / kHidden] * kHidden + i % kHidden]);
  }
  ExpectNear(normed.Read(), NormOfRows(rows, {0, 1, 2, 3}, Floats(weight)));
}

TEST_F(ElementwiseTest, SwiGluIsThatOfTheCpu) {
  for (const int size : {8, 768, 14336}) {
    constexpr uint32_t kRows = 7;
    const std::vector<Bf16> gate_up = Rounded(Normal(kRows * 2 * size, size));
    const DeviceArray<Bf16> in(gate_up), out(kRows * size);
    ASSERT_EQ(cuda::SwiGlu(in.data(), size, out.data(), kRows, nullptr), cudaSuccess);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    const std::vector<float> floats = Floats(gate_up);
    std::vector<float> expected(kRows * size);
    for (uint32_t row = 0; row < kRows; ++row) {
      const float* gate = &floats[row * 2 * size];
      SwiGlu(gate, gate + size, size, &expected[row * size]);
    }
    ExpectNear(out.Read(), expected);
  }
}

TEST_F(ElementwiseTest, SizesThatVectorsDoNotFitAreRefused) {
  for (const int hidden : {4, 12, 16392}) EXPECT_FALSE(cuda::ElementwiseSupports(hidden));
}

}  // namespace
}  // namespace palimpsest
