// SPDX-License-Identifier: Apache-2.0
// What only the device can find out, told to the host without a copy: the first fault since the
// last Synchronize, in memory that both can see.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/fault_sink.h"

namespace palimpsest::cuda {

class FaultReport {
 public:
  static absl::StatusOr<FaultReport> Make(cudaStream_t stream);

  FaultSink sink() const { return {reinterpret_cast<uint32_t*>(raised_.get()), fault()}; }

  // Has there been one? May be asked while the device works.
  bool met() const { return static_cast<const volatile Fault*>(fault())->kind != FaultKind::kNone; }

  // The fault met, as a Status, and ready for the next. REQUIRES: the stream has been waited for.
  absl::Status Take(cudaStream_t stream);

 private:
  Fault* fault() const { return reinterpret_cast<Fault*>(fault_.get()); }

  DeviceBytes raised_;
  PinnedBytes fault_;
};

}  // namespace palimpsest::cuda
