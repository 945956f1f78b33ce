// SPDX-License-Identifier: Apache-2.0
#include "common/policy/lane_budgets.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace palimpsest {

std::vector<uint32_t> LaneBudgets(absl::Span<const float> shares, uint32_t mean) {
  const uint32_t each = std::min(mean, kLaneBudgetMin);
  const auto rest = static_cast<double>(uint64_t{mean - each} * shares.size());
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  std::vector<uint32_t> budgets(shares.size());
  std::vector<double> remainders(shares.size());
  std::vector<uint32_t> lanes(shares.size());
  uint64_t left = uint64_t{mean - each} * shares.size();
  for (uint32_t i = 0; i < shares.size(); ++i) {
    const double exact = rest * (shares[i] / sum);
    const double whole = std::floor(exact);
    budgets[i] = each + static_cast<uint32_t>(whole);
    remainders[i] = exact - whole;
    left -= std::min(left, static_cast<uint64_t>(whole));
    lanes[i] = i;
  }
  std::stable_sort(lanes.begin(), lanes.end(),
                   [&](uint32_t a, uint32_t b) { return remainders[a] > remainders[b]; });
  for (uint64_t i = 0; i < left && i < lanes.size(); ++i) ++budgets[lanes[i]];
  return budgets;
}

}  // namespace palimpsest
