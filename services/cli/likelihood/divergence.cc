// SPDX-License-Identifier: Apache-2.0
#include "services/cli/likelihood/divergence.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "services/decode/model/simd.h"

namespace palimpsest::cli {
namespace {

constexpr int kLanes = 8;         // partial sums, so that a sum may be vectorised
constexpr size_t kStretch = 512;  // of a row: its weights stay in the nearest cache

constexpr float kRangeMax = 700.0f;

// e^x for -kRangeMax <= x <= 0, to about the last bit: 2^round(x / ln 2) times a polynomial.
// Branch-free on purpose; std::exp would keep the loop around it scalar.
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

double Sum(const double* values, size_t size) {
  double partial[kLanes] = {};
  const size_t whole = size / kLanes * kLanes;
  for (size_t i = 0; i < whole; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) partial[lane] += values[i + lane];
  }
  double sum = 0;
  for (const double part : partial) sum += part;
  for (size_t i = whole; i < size; ++i) sum += values[i];
  return sum;
}

// Writes e^(logit - largest) and returns the sum. Never inlined, so that a row and its equal get
// the same bits wherever they are summed.
PALIMPSEST_SIMD_CLONES
double WeighNear(const float* logits, size_t size, float largest, double* __restrict weights) {
  for (size_t i = 0; i < size; ++i) {
    weights[i] = Exp(static_cast<double>(logits[i]) - static_cast<double>(largest));
  }
  return Sum(weights, size);
}

// The same for a row whose logits lie further apart than Exp can take.
double WeighFar(const float* logits, size_t size, float largest, double* weights) {
  for (size_t i = 0; i < size; ++i) {
    weights[i] = std::exp(static_cast<double>(logits[i]) - static_cast<double>(largest));
  }
  return Sum(weights, size);
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

struct Extremes {
  size_t likeliest = 0;  // the first of the largest logits; the row's size where one is not finite
  float largest = 0;
  bool near = false;  // all logits lie within kRangeMax of it
};

PALIMPSEST_SIMD_CLONES
void FindExtremes(const float* logits, size_t size, Extremes* found) {
  float largest[kLanes], smallest[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) largest[lane] = smallest[lane] = logits[0];
  float poison[kLanes] = {};  // becomes NaN with the first that is not finite
  const size_t whole = size / kLanes * kLanes;
  for (size_t i = 0; i < whole; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const float x = logits[i + lane];
      largest[lane] = x > largest[lane] ? x : largest[lane];
      smallest[lane] = x < smallest[lane] ? x : smallest[lane];
      poison[lane] += x * 0.0f;
    }
  }
  float most = largest[0], least = smallest[0], bad = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    most = largest[lane] > most ? largest[lane] : most;
    least = smallest[lane] < least ? smallest[lane] : least;
    bad += poison[lane];
  }
  for (size_t i = whole; i < size; ++i) {
    most = logits[i] > most ? logits[i] : most;
    least = logits[i] < least ? logits[i] : least;
    bad += logits[i] * 0.0f;
  }
  found->largest = most;
  found->near = most - least < kRangeMax;
  // NaN is unequal to everything.
  found->likeliest =
      bad != 0.0f ? size : static_cast<size_t>(std::find(logits, logits + size, most) - logits);
}

}  // namespace

bool ReferenceRow::Read(absl::Span<const float> logits) {
  logits_ = logits;
  weights_.resize(logits.size());
  Extremes found;
  FindExtremes(logits.data(), logits.size(), &found);
  likeliest_ = found.likeliest;
  if (likeliest_ == logits.size()) return false;
  const auto weigh = found.near ? WeighNear : WeighFar;
  weight_sum_ = 0;
  for (size_t first = 0; first < logits.size(); first += kStretch) {
    const size_t count = std::min(kStretch, logits.size() - first);
    weight_sum_ += weigh(&logits[first], count, found.largest, &weights_[first]);
  }
  log_sum_ = static_cast<double>(found.largest) + std::log(weight_sum_);
  return true;
}

Divergence Compare(const ReferenceRow& reference, absl::Span<const float> logits, size_t target) {
  Divergence result;
  Extremes found;
  FindExtremes(logits.data(), logits.size(), &found);
  if (found.likeliest == logits.size()) return result;
  const auto weigh = found.near ? WeighNear : WeighFar;
  double weights[kStretch];
  double weight_sum = 0, between = 0;
  for (size_t first = 0; first < logits.size(); first += kStretch) {
    const size_t count = std::min(kStretch, logits.size() - first);
    weight_sum += weigh(&logits[first], count, found.largest, weights);
    // Differences of logits first, so that equal rows give nothing but zeros.
    between += WeighedDifference(&reference.weights()[first], &reference.logits()[first],
                                 &logits[first], count);
  }
  const double log_sum = static_cast<double>(found.largest) + std::log(weight_sum);
  result.finite = true;
  result.kl = std::max(0.0, between / reference.weight_sum() - (reference.log_sum() - log_sum));
  result.agrees = found.likeliest == reference.likeliest();
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
