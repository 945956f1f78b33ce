// SPDX-License-Identifier: Apache-2.0
#include "services/cli/calibrate/lane_shares.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "common/base/check.h"
#include "kernels/query_codebook.h"

namespace palimpsest::cli {
namespace {

constexpr int kScalingsMax = 64;
constexpr double kMeanTolerance = 1e-9;

double Mean(absl::Span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace

double LostScore(std::vector<float> scores) {
  if (scores.size() <= kRankedTokens) return 0.0;
  // Sorted, not parted: the same sum whatever the order they came in.
  std::sort(scores.begin(), scores.end(), std::greater<>());
  return std::accumulate(scores.begin() + kRankedTokens, scores.end(), 0.0);
}

std::vector<float> LaneShares(absl::Span<const double> losses) {
  if (losses.empty()) return {};
  KV_CHECK(*std::min_element(losses.begin(), losses.end()) >= 0.0);
  const double mean_loss = Mean(losses);
  if (mean_loss == 0.0) return {};
  std::vector<double> shares;
  for (const double loss : losses) {
    shares.push_back(kShareFloor + (1.0 - kShareFloor) * loss / mean_loss);
  }
  // Their mean is 1 but for what the limits take away: that goes to all in proportion, within them.
  for (int i = 0; i < kScalingsMax; ++i) {
    const double scale = 1.0 / Mean(shares);
    for (double& share : shares) {
      share = std::clamp(share * scale, double{kLaneShareMin}, double{kLaneShareMax});
    }
    if (std::abs(Mean(shares) - 1.0) <= kMeanTolerance) break;
  }
  return {shares.begin(), shares.end()};
}

}  // namespace palimpsest::cli
