// SPDX-License-Identifier: Apache-2.0
// Tables that the host makes anew for every call and the device reads: one device block of fixed
// addresses and some pinned copies of it, filled in turn, so that the host never writes what is
// still to be copied and does not wait for it either: it may be a step ahead, with all the calls of
// a group boundary.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/device_memory.h"

namespace palimpsest::cuda {

class StagedBlock {
 public:
  StagedBlock() = default;
  static absl::StatusOr<StagedBlock> Make(uint64_t bytes, cudaStream_t stream, const char* what);

  uint8_t* device() const { return device_.get(); }

  // The host copy to fill next. Waits only if all are still to be copied.
  absl::StatusOr<uint8_t*> Begin();
  // Orders the copy of the first `bytes` bytes of what Begin gave.
  absl::Status Copy(uint64_t bytes, cudaStream_t stream);
  // Or of the first `bytes` bytes of each of `rows` rows, which lie `stride` apart.
  struct Rows {
    uint64_t first_byte = 0;
    uint64_t stride = 0, rows = 0;
    uint64_t bytes = 0;
  };
  absl::Status CopyRows(const Rows& rows, cudaStream_t stream);

 private:
  struct HostCopy {
    PinnedBytes bytes;
    Event copied;
  };
  DeviceBytes device_;
  std::array<HostCopy, 4> copies_;
  size_t next_ = 0;
};

}  // namespace palimpsest::cuda
