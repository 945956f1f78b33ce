// SPDX-License-Identifier: Apache-2.0
// CUDA's resources as C++ owns things, and CUDA's codes as a Status. Everything here is made when a
// backend is made and freed with it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace palimpsest::cuda {

// OK, or what a CUDA call reported: ResourceExhausted for want of memory, Unavailable where there
// is no device, no driver or no kernel for the device, Internal for anything else. `what` names
// what was tried.
absl::Status ToStatus(cudaError_t code, const char* what);

struct DeviceFree {
  void operator()(uint8_t* p) const;
};
struct PinnedFree {
  void operator()(uint8_t* p) const;
};
struct StreamFree {
  void operator()(cudaStream_t stream) const;
};
struct EventFree {
  void operator()(cudaEvent_t event) const;
};
using DeviceBytes = std::unique_ptr<uint8_t, DeviceFree>;
using PinnedBytes = std::unique_ptr<uint8_t, PinnedFree>;
using Stream = std::unique_ptr<CUstream_st, StreamFree>;
using Event = std::unique_ptr<CUevent_st, EventFree>;

// Device memory, aligned to 256 bytes at least, zeroed in `stream`. `what` names it in errors.
absl::StatusOr<DeviceBytes> AllocateDevice(uint64_t bytes, cudaStream_t stream, const char* what);
// Zeroed host memory that the device can read and write at the same address.
absl::StatusOr<PinnedBytes> AllocatePinned(uint64_t bytes, const char* what);
// A stream that does not wait for the default one.
absl::StatusOr<Stream> NewStream();
// An event without a clock, recorded nowhere yet.
absl::StatusOr<Event> NewEvent();

}  // namespace palimpsest::cuda
