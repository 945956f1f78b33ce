// SPDX-License-Identifier: Apache-2.0
#include "services/cli/interval.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

namespace palimpsest::cli {
namespace {

constexpr double kNormal95 = 1.959963984540054;
// Student's, by degrees of freedom from 1.
constexpr std::array kStudent95 = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306,
                                   2.262,  2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
                                   2.110,  2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064,
                                   2.060,  2.056, 2.052, 2.048, 2.045, 2.042};

}  // namespace

Interval WilsonInterval(double share, double count) {
  if (count <= 0) return {};
  const double z2 = kNormal95 * kNormal95;
  const double middle = (share * count + z2 / 2) / (count + z2);
  const double half = kNormal95 / (count + z2) * std::sqrt(count * share * (1 - share) + z2 / 4);
  return {std::max(0.0, middle - half), std::min(1.0, middle + half)};
}

Interval MeanInterval(const std::vector<double>& values) {
  const auto count = static_cast<double>(values.size());
  if (values.size() < 2) {
    return {-std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
  }
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  const size_t freedom = values.size() - 1;
  const double student = freedom <= kStudent95.size() ? kStudent95[freedom - 1] : kNormal95;
  const double half = student * std::sqrt(squares / (count - 1) / count);
  return {mean - half, mean + half};
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
