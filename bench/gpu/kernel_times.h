// SPDX-License-Identifier: Apache-2.0
// What the device did and when, from CUPTI's record of every kernel, copy and fill, also of those
// that graphs run. Recording costs time of its own: measure wall time without it.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace palimpsest::bench {

struct DeviceTimes {
  // Seconds by family ("weights", "attention", "append", "quantise", "sparsity", "anneal",
  // "sampling", "other"). Where two overlap, the one that began first has the time.
  std::map<std::string, double> seconds;
  // Seconds the device waited before work of a family came: where a step idles, with what recording
  // adds to it.
  std::map<std::string, double> idle_before;
  double busy_seconds() const;
  size_t records = 0;
};

class KernelTimes {
 public:
  virtual ~KernelTimes() = default;
  virtual absl::Status Start() = 0;
  // Ends the recording. REQUIRES: the device has been waited for.
  virtual absl::StatusOr<DeviceTimes> Stop() = 0;
};

// Unavailable where CUPTI is not. One at a time.
absl::StatusOr<std::unique_ptr<KernelTimes>> NewKernelTimes();

}  // namespace palimpsest::bench
