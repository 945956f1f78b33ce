// SPDX-License-Identifier: Apache-2.0
// Seal as the backend does it: tables to the device, two launches (seal.h).
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cuda/device_context.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/order_staging.h"

namespace palimpsest::cuda {

class Sealer {
 public:
  static absl::StatusOr<Sealer> Make(const DeviceContext& device);

  // InvalidArgument for more orders than there are open groups. Too few dead slots are a fault,
  // told later. REQUIRES: arguments checked (kernels/checks.h).
  absl::Status Seal(const DeviceContext& device, absl::Span<const SequenceView> sequences,
                    absl::Span<const SealOrder> orders, OrderStaging* staging);

 private:
  DeviceBytes places_;        // [open_groups][lanes][16]
  DeviceBytes refused_call_;  // one number
  uint32_t calls_ = 0;
};

}  // namespace palimpsest::cuda
