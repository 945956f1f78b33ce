// SPDX-License-Identifier: Apache-2.0
// A fleet on the GPU, with a model of a known shape and random weights, and the policies that the
// benchmarks compare.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "bench/fleet/fleet.h"
#include "bench/fleet/policies.h"
#include "services/decode/model/cuda/cuda_model.h"

namespace palimpsest::bench {

struct GpuFleetOptions {
  std::string shape = "llama-3-8b";
  uint32_t batch_max = 1024;
  uint32_t tokens = 32768;  // a chain's; the model is given room for them
  uint64_t pool_bytes = 0;  // 0: what the device has left
  bool rotate_keys = true;  // as workers do (--rotate-keys)
};

struct GpuFleet {
  std::unique_ptr<Fleet> fleet;  // owns the backend, which the model goes before
  std::unique_ptr<CudaModel> model;
  cudaStream_t stream = nullptr;
  CacheShape shape;
  uint64_t pool_bytes = 0;
  uint64_t read_weight_bytes = 0;  // that every step reads: all but an embedding table of its own
};

absl::StatusOr<GpuFleet> NewGpuFleet(const GpuFleetOptions& options);

}  // namespace palimpsest::bench
