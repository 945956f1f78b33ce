// SPDX-License-Identifier: Apache-2.0
// The tables of a Seal or Anneal call's uneven sequences (uneven_table.h). Where the codebook has
// no shares there are no such sequences, and nothing is allocated; a call without one copies
// nothing.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/staged_block.h"
#include "kernels/cuda/uneven_table.h"
#include "kernels/pool_layout.h"

namespace palimpsest::cuda {

class LaneTables {
 public:
  LaneTables() = default;
  static absl::StatusOr<LaneTables> Make(const PoolLayout& layout, cudaStream_t stream);

  // A call's tables come next; its orders speak of `sequences` sequences.
  absl::Status Begin(size_t sequences);

  // Where the table of a sequence begins, which is there once however many orders name it;
  // kNoTable for an even one. InvalidArgument where there is no room.
  absl::StatusOr<uint32_t> Put(uint32_t sequence, const SequenceView& view);
  // Where what the lanes keep begins. For an order to an uneven sequence.
  absl::StatusOr<uint32_t> PutKeeps(const AnnealOrder& order);

  // Orders the copy of what was put.
  absl::Status End(cudaStream_t stream);

  // [numbers put], until the next Begin.
  const uint32_t* on_host() const { return numbers_; }
  const uint32_t* on_device() const { return reinterpret_cast<const uint32_t*>(block_.device()); }

 private:
  absl::StatusOr<uint32_t> Take(uint64_t numbers);

  std::vector<uint32_t> ranks_;
  uint64_t room_ = 0;  // in numbers
  uint64_t used_ = 0;
  StagedBlock block_;
  uint32_t* numbers_ = nullptr;        // the host's copy
  std::vector<uint32_t> of_sequence_;  // where the sequence's table begins, or kNoTable
};

}  // namespace palimpsest::cuda
