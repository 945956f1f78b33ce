// SPDX-License-Identifier: Apache-2.0
// What every GPU benchmark says of itself first: the device, the commit and the ceilings.
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "bench/gpu/ceilings.h"

namespace palimpsest::bench {

absl::StatusOr<nlohmann::ordered_json> DeviceLine(absl::string_view bench,
                                                  const Ceilings& ceilings);

// Rounded to that many significant digits, so that JSON shows no more.
double Rounded(double value, int digits);

}  // namespace palimpsest::bench
