// SPDX-License-Identifier: Apache-2.0
// What `palimpsest calibrate` says of what it found. Pure.
#pragma once

#include <string>

#include "absl/types/span.h"
#include "common/policy/calibration.h"

namespace palimpsest::cli {

// A line a layer, and theta. `columns`: of the terminal.
std::string DescribeLayers(const Calibration& calibration, int columns);

// QueryCodebook::lane_shares: a line a layer, with the share of each of its KV heads. Empty: says
// that there are none. `columns` as above.
std::string DescribeShares(absl::Span<const float> shares, int layers, int columns);

}  // namespace palimpsest::cli
