// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/staged_block.h"

#include "common/base/status_macros.h"

namespace palimpsest::cuda {

absl::StatusOr<StagedBlock> StagedBlock::Make(uint64_t bytes, cudaStream_t stream,
                                              const char* what) {
  StagedBlock block;
  KV_ASSIGN_OR_RETURN(block.device_, AllocateDevice(bytes, stream, what));
  for (HostCopy& copy : block.copies_) {
    KV_ASSIGN_OR_RETURN(copy.bytes, AllocatePinned(bytes, what));
    KV_ASSIGN_OR_RETURN(copy.copied, NewEvent());
  }
  return block;
}

absl::StatusOr<uint8_t*> StagedBlock::Begin() {
  next_ = (next_ + 1) % copies_.size();
  const HostCopy& copy = copies_[next_];
  KV_RETURN_IF_ERROR(ToStatus(cudaEventSynchronize(copy.copied.get()), "wait for a table's copy"));
  return copy.bytes.get();
}

absl::Status StagedBlock::Copy(uint64_t bytes, cudaStream_t stream) {
  const HostCopy& copy = copies_[next_];
  KV_RETURN_IF_ERROR(ToStatus(
      cudaMemcpyAsync(device_.get(), copy.bytes.get(), bytes, cudaMemcpyHostToDevice, stream),
      "copy a table to the device"));
  return ToStatus(cudaEventRecord(copy.copied.get(), stream), "mark a table as copied");
}

absl::Status StagedBlock::CopyRows(const Rows& rows, cudaStream_t stream) {
  const HostCopy& copy = copies_[next_];
  KV_RETURN_IF_ERROR(
      ToStatus(cudaMemcpy2DAsync(device_.get() + rows.first_byte, rows.stride,
                                 copy.bytes.get() + rows.first_byte, rows.stride, rows.bytes,
                                 rows.rows, cudaMemcpyHostToDevice, stream),
               "copy a table's rows to the device"));
  return ToStatus(cudaEventRecord(copy.copied.get(), stream), "mark a table as copied");
}

}  // namespace palimpsest::cuda
