// SPDX-License-Identifier: Apache-2.0
#include "bench/fleet/stepping.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <vector>

#include "common/base/status_macros.h"

namespace palimpsest::bench {

absl::StatusOr<StepTimes> TakeSteps(Fleet& fleet, uint32_t steps) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> seconds;
  seconds.reserve(steps);
  for (uint32_t i = 0; i < steps; ++i) {
    const auto begin = Clock::now();
    KV_RETURN_IF_ERROR(fleet.Step());
    seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  StepTimes times{.total_s = std::accumulate(seconds.begin(), seconds.end(), 0.0)};
  std::sort(seconds.begin(), seconds.end());
  times.median_s = seconds[seconds.size() / 2];
  times.p99_s = seconds[seconds.size() * 99 / 100];
  return times;
}

}  // namespace palimpsest::bench
