// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/device_memory.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace palimpsest::cuda {

absl::Status ToStatus(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return absl::OkStatus();
  // A fault is told once here; it must not be taken for the next launch's.
  (void)cudaGetLastError();
  const std::string text = absl::StrCat(what, ": ", cudaGetErrorString(code));
  switch (code) {
    case cudaErrorMemoryAllocation:
      return absl::ResourceExhaustedError(text);
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorInvalidDevice:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorSystemNotReady:
    case cudaErrorDevicesUnavailable:
      return absl::UnavailableError(text);
    default:
      return absl::InternalError(text);
  }
}

// Freeing fails only where the device has failed; that has been told already.
void DeviceFree::operator()(uint8_t* p) const { (void)cudaFree(p); }
void PinnedFree::operator()(uint8_t* p) const { (void)cudaFreeHost(p); }
void StreamFree::operator()(cudaStream_t stream) const { (void)cudaStreamDestroy(stream); }
void EventFree::operator()(cudaEvent_t event) const { (void)cudaEventDestroy(event); }

absl::StatusOr<DeviceBytes> AllocateDevice(uint64_t bytes, cudaStream_t stream, const char* what) {
  void* p = nullptr;
  const uint64_t size = std::max<uint64_t>(bytes, 1);
  KV_RETURN_IF_ERROR(ToStatus(cudaMalloc(&p, size), what));
  DeviceBytes owned(static_cast<uint8_t*>(p));
  KV_RETURN_IF_ERROR(ToStatus(cudaMemsetAsync(p, 0, size, stream), what));
  return owned;
}

absl::StatusOr<PinnedBytes> AllocatePinned(uint64_t bytes, const char* what) {
  void* p = nullptr;
  const uint64_t size = std::max<uint64_t>(bytes, 1);
  KV_RETURN_IF_ERROR(ToStatus(cudaHostAlloc(&p, size, cudaHostAllocMapped), what));
  PinnedBytes owned(static_cast<uint8_t*>(p));
  std::memset(p, 0, size);
  return owned;
}

absl::StatusOr<Stream> NewStream() {
  cudaStream_t stream = nullptr;
  KV_RETURN_IF_ERROR(
      ToStatus(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream"));
  return Stream(stream);
}

absl::StatusOr<Event> NewEvent() {
  cudaEvent_t event = nullptr;
  KV_RETURN_IF_ERROR(
      ToStatus(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "an event"));
  return Event(event);
}

}  // namespace palimpsest::cuda
