// SPDX-License-Identifier: Apache-2.0
// What the device's memory can do at best, measured beside whatever is compared with it.
#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/statusor.h"

namespace palimpsest::bench {

struct Ceilings {
  double copy_gbps = 0;  // bytes read and written by a device-to-device cudaMemcpyAsync of 2 GiB
  double read_gbps = 0;  // bytes read by a kernel that sums 2 GiB and writes nothing
};

absl::StatusOr<Ceilings> MeasureCeilings(cudaStream_t stream);

}  // namespace palimpsest::bench
