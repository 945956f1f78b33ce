// SPDX-License-Identifier: Apache-2.0
#include "services/decode/device/cuda_device.h"

namespace palimpsest {

absl::StatusOr<Device> NewCudaDevice(int, const DeviceOptions&) {
  return absl::UnavailableError("this program was built without CUDA");
}

}  // namespace palimpsest
