// SPDX-License-Identifier: Apache-2.0
// The one door to CUDA. Two files implement it: cuda_device.cc, and no_cuda_device.cc where the
// build has no CUDA.
#pragma once

#include "absl/status/statusor.h"
#include "services/decode/device/device.h"

namespace palimpsest {

// On GPU `index`. Unavailable, with the reason, where it cannot be used at all or not for a model
// of this shape; otherwise what loading the model says.
absl::StatusOr<Device> NewCudaDevice(int index, const DeviceOptions& options);

}  // namespace palimpsest
