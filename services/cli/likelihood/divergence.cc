// SPDX-License-Identifier: Apache-2.0
#include "services/cli/likelihood/divergence.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "services/decode/model/simd.h"

namespace palimpsest::cli {
namespace {

constexpr int kLanes = 8;  // partial sums, so that a sum may be vectorised

// e^x for -700 <= x <= 0, to about the last bit: 2^round(x / ln 2) times a polynomial. Branch-free
// on purpose; std::exp would keep the loop around it scalar.
inline double Exp(double x) {
  constexpr double kShifter = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
  const double shifted = x * 1.4426950408889634 + kShifter;
  const double n = shifted - kShifter;
  const double r = (x - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;
  double p = 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * (r * r) + r + 1.0;
  const uint64_t scale = (std::bit_cast<uint64_t>(shifted) + 1023u) << 52;
  return p * std::bit_cast<double>(scale);
}

// Writes e^(logit - largest) and returns the sum.
PALIMPSEST_SIMD_CLONES
double Weigh(const float* logits, size_t size, float largest, double* weights) {
  for (size_t i = 0; i < size; ++i) {
    double x = static_cast<double>(logits[i]) - static_cast<double>(largest);
    x = x < -700.0 ? -700.0 : x;
    weights[i] = Exp(x);
  }
  double partial[kLanes] = {};
  const size_t whole = size / kLanes * kLanes;
  for (size_t i = 0; i < whole; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) partial[lane] += weights[i + lane];
  }
  double sum = 0;
  for (const double part : partial) sum += part;
  for (size_t i = whole; i < size; ++i) sum += weights[i];
  return sum;
}

// The sum of weight * (a - b).
PALIMPSEST_SIMD_CLONES
double WeighedDifference(const double* weights, const float* a, const float* b, size_t size) {
  double partial[kLanes] = {};
  const size_t whole = size / kLanes * kLanes;
  for (size_t i = 0; i < whole; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      partial[lane] +=
          weights[i + lane] * (static_cast<double>(a[i + lane]) - static_cast<double>(b[i + lane]));
    }
  }
  double sum = 0;
  for (const double part : partial) sum += part;
  for (size_t i = whole; i < size; ++i) {
    sum += weights[i] * (static_cast<double>(a[i]) - static_cast<double>(b[i]));
  }
  return sum;
}

// The first of the largest logits; `size` where a logit is not finite.
PALIMPSEST_SIMD_CLONES
size_t FindLargest(const float* logits, size_t size) {
  float largest[kLanes];
  for (float& lane : largest) lane = logits[0];
  float poison[kLanes] = {};  // becomes NaN with the first that is not finite
  const size_t whole = size / kLanes * kLanes;
  for (size_t i = 0; i < whole; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const float x = logits[i + lane];
      largest[lane] = x > largest[lane] ? x : largest[lane];
      poison[lane] += x * 0.0f;
    }
  }
  float most = largest[0], bad = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    most = largest[lane] > most ? largest[lane] : most;
    bad += poison[lane];
  }
  for (size_t i = whole; i < size; ++i) {
    most = logits[i] > most ? logits[i] : most;
    bad += logits[i] * 0.0f;
  }
  if (bad != 0.0f) return size;  // NaN is unequal to everything
  return static_cast<size_t>(std::find(logits, logits + size, most) - logits);
}

}  // namespace

bool ReferenceRow::Read(absl::Span<const float> logits) {
  logits_ = logits;
  weights_.resize(logits.size());
  likeliest_ = FindLargest(logits.data(), logits.size());
  if (likeliest_ == logits.size()) return false;
  const float largest = logits[likeliest_];
  weight_sum_ = Weigh(logits.data(), logits.size(), largest, weights_.data());
  log_sum_ = static_cast<double>(largest) + std::log(weight_sum_);
  return true;
}

Divergence Compare(const ReferenceRow& reference, absl::Span<const float> logits, size_t target,
                   std::vector<double>& scratch) {
  Divergence result;
  const size_t likeliest = FindLargest(logits.data(), logits.size());
  if (likeliest == logits.size()) return result;
  scratch.resize(logits.size());
  const float largest = logits[likeliest];
  const double log_sum = static_cast<double>(largest) +
                         std::log(Weigh(logits.data(), logits.size(), largest, scratch.data()));
  // Differences of logits first, so that equal rows give nothing but zeros.
  const double between = WeighedDifference(reference.weights().data(), reference.logits().data(),
                                           logits.data(), logits.size()) /
                         reference.weight_sum();
  result.finite = true;
  result.kl = std::max(0.0, between - (reference.log_sum() - log_sum));
  result.agrees = likeliest == reference.likeliest();
  result.surprise = log_sum - static_cast<double>(logits[target]);
  result.full_surprise = reference.log_sum() - static_cast<double>(reference.logits()[target]);
  return result;
}

DivergenceSummary Summarise(absl::Span<const Divergence> positions) {
  DivergenceSummary summary{.positions = static_cast<uint32_t>(positions.size())};
  const size_t half = positions.size() / 2;
  std::vector<double> sorted;
  sorted.reserve(positions.size());
  for (size_t i = 0; i < positions.size(); ++i) {
    const Divergence& at = positions[i];
    sorted.push_back(at.kl);
    summary.kl_mean += at.kl;
    if (i >= half) summary.kl_mean_last_half += at.kl;
    summary.agreement += at.agrees ? 1.0 : 0.0;
    summary.surprise_mean += at.surprise;
    summary.full_surprise_mean += at.full_surprise;
  }
  const auto count = static_cast<double>(positions.size());
  summary.kl_mean /= count;
  summary.kl_mean_last_half /= static_cast<double>(positions.size() - half);
  summary.agreement /= count;
  summary.surprise_mean /= count;
  summary.full_surprise_mean /= count;
  // Nearest rank: the least value that 95 % of all do not exceed.
  const auto rank = static_cast<size_t>(std::ceil(0.95 * count));
  const auto at = sorted.begin() + static_cast<ptrdiff_t>(std::max<size_t>(rank, 1) - 1);
  std::nth_element(sorted.begin(), at, sorted.end());
  summary.kl_p95 = *at;
  return summary;
}

}  // namespace palimpsest::cli
