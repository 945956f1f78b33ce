// SPDX-License-Identifier: Apache-2.0
#include "services/cli/interval.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace palimpsest::cli {
namespace {

constexpr double kNormal95 = 1.959963984540054;

}  // namespace

Interval WilsonInterval(double share, double count) {
  if (count <= 0) return {};
  const double z2 = kNormal95 * kNormal95;
  const double middle = (share * count + z2 / 2) / (count + z2);
  const double half = kNormal95 / (count + z2) * std::sqrt(count * share * (1 - share) + z2 / 4);
  return {std::max(0.0, middle - half), std::min(1.0, middle + half)};
}

double EffectiveTrials(const std::vector<double>& shares, double answers) {
  const auto problems = static_cast<double>(shares.size());
  if (problems < 2 || answers <= problems) return std::min(problems, answers);
  const double mean = std::accumulate(shares.begin(), shares.end(), 0.0) / problems;
  double squares = 0;
  for (const double share : shares) squares += (share - mean) * (share - mean);
  const double variance = squares / (problems - 1) / problems;  // of the mean
  // Were all answers alike it would be 0, and says nothing.
  if (variance <= 0) return problems;
  return std::clamp(mean * (1 - mean) / variance, problems, answers);
}

}  // namespace palimpsest::cli
