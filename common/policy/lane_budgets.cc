// SPDX-License-Identifier: Apache-2.0
#include "common/policy/lane_budgets.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace palimpsest {

std::vector<uint32_t> LaneBudgets(absl::Span<const float> shares, uint32_t mean) {
  const uint32_t each = std::min(mean, kLaneBudgetMin + mean % kLaneBudgetStep);
  const uint64_t steps = uint64_t{(mean - each) / kLaneBudgetStep} * shares.size();
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  std::vector<uint32_t> budgets(shares.size());
  std::vector<double> remainders(shares.size());
  std::vector<uint32_t> lanes(shares.size());
  uint64_t left = steps;
  for (uint32_t i = 0; i < shares.size(); ++i) {
    const double exact = static_cast<double>(steps) * (shares[i] / sum);
    const double whole = std::floor(exact);
    budgets[i] = each + kLaneBudgetStep * static_cast<uint32_t>(whole);
    remainders[i] = exact - whole;
    left -= std::min(left, static_cast<uint64_t>(whole));
    lanes[i] = i;
  }
  std::stable_sort(lanes.begin(), lanes.end(),
                   [&](uint32_t a, uint32_t b) { return remainders[a] > remainders[b]; });
  for (uint64_t i = 0; i < left && i < lanes.size(); ++i) budgets[lanes[i]] += kLaneBudgetStep;
  return budgets;
}

}  // namespace palimpsest
