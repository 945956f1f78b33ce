// SPDX-License-Identifier: Apache-2.0
#include "kernels/query_codebook.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace palimpsest {
namespace {

constexpr double kMeanTolerance = 0.01;

template <typename... Parts>
absl::Status Refuse(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat("lane_shares: ", parts...));
}

}  // namespace

absl::Status CheckLaneShares(absl::Span<const float> shares, size_t lanes) {
  if (shares.empty()) return absl::OkStatus();
  if (shares.size() != lanes) return Refuse(shares.size(), " shares for ", lanes, " lanes");
  double sum = 0;
  for (size_t lane = 0; lane < lanes; ++lane) {
    const float share = shares[lane];
    if (!std::isfinite(share)) return Refuse("that of lane ", lane, " is not finite");
    if (share < kLaneShareMin || share > kLaneShareMax) {
      return Refuse("that of lane ", lane, " is ", share, ", expected ", kLaneShareMin, " to ",
                    kLaneShareMax);
    }
    sum += share;
  }
  const double mean = sum / static_cast<double>(lanes);
  if (std::abs(mean - 1.0) <= kMeanTolerance) return absl::OkStatus();
  return Refuse("their mean is ", mean, ", expected 1");
}

}  // namespace palimpsest
