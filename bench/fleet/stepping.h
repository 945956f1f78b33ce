// SPDX-License-Identifier: Apache-2.0
// Takes a fleet through steps and says how long they took, by the wall clock.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "bench/fleet/fleet.h"

namespace palimpsest::bench {

struct StepTimes {
  double total_s = 0;
  double median_s = 0;
  double p99_s = 0;
};

absl::StatusOr<StepTimes> TakeSteps(Fleet& fleet, uint32_t steps);

}  // namespace palimpsest::bench
