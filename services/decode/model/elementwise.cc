// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/elementwise.h"

#include <bit>
#include <cmath>
#include <cstdint>

#include "services/decode/model/simd.h"

namespace palimpsest {
namespace {

constexpr int kLanes = 16;  // partial sums, so that a sum of squares may be vectorised

// e^x for |x| <= 87, relative error about 2e-7: 2^round(x / ln 2) times a polynomial. Branch-free
// on purpose; std::exp would keep the loop around it scalar.
inline float Exp(float x) {
  constexpr float kShifter = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float t = x * 1.44269504f;
  const float shifted = t + kShifter;
  const float n = shifted - kShifter;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts (Cody-Waite)
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const uint32_t scale = (std::bit_cast<uint32_t>(shifted) + 127u) << 23;
  return p * std::bit_cast<float>(scale);
}

}  // namespace

PALIMPSEST_SIMD_CLONES
void RmsNorm(const float* x, const float* weight, float eps, size_t size, float* out) {
  float partial[kLanes] = {};
  const size_t whole = size / kLanes * kLanes;
  for (size_t i = 0; i < whole; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) partial[lane] += x[i + lane] * x[i + lane];
  }
  float sum = 0.0f;
  for (const float part : partial) sum += part;
  for (size_t i = whole; i < size; ++i) sum += x[i] * x[i];
  const float scale = 1.0f / std::sqrt(sum / static_cast<float>(size) + eps);
  for (size_t i = 0; i < size; ++i) out[i] = x[i] * scale * weight[i];
}

PALIMPSEST_SIMD_CLONES
void AddInPlace(const float* y, size_t size, float* x) {
  for (size_t i = 0; i < size; ++i) x[i] += y[i];
}

PALIMPSEST_SIMD_CLONES
void SwiGlu(const float* __restrict gate, const float* __restrict up, size_t size,
            float* __restrict out) {
  for (size_t i = 0; i < size; ++i) {
    // Clamped so that Exp stays in range; a NaN stays a NaN and is caught by the sampler.
    float x = -gate[i];
    x = x > 87.0f ? 87.0f : x;
    x = x < -87.0f ? -87.0f : x;
    out[i] = gate[i] / (1.0f + Exp(x)) * up[i];
  }
}

}  // namespace palimpsest
