// SPDX-License-Identifier: Apache-2.0
// The CUDA backend: pages in device memory, kernels in one stream, nothing allocated after it is
// made and nothing waited for but where the host asks for it: Synchronize, AwaitSparsity, Await.
//
// BeginStep copies the step's tables into device buffers of fixed addresses. Append and Attend read
// what they need from there, with launches that depend on the configuration alone; so a captured
// graph of them serves every step. A model on the device shares the backend's stream.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/query_sources.h"
#include "kernels/cuda/step_tables.h"

namespace palimpsest {

// Q, K and V as the fused projection leaves them, and what turns them into cache entries.
struct ProjectedQkv {
  // [rows, (query_heads + 2 * kv_heads) * head_dim] bf16: a row holds q, then k, then v.
  const void* qkv = nullptr;
  void* q = nullptr;             // out: [rows, query_heads, head_dim] bf16, as LayerActivations::q
  const void* q_norm = nullptr;  // [head_dim] bf16 RMSNorm weight, or null
  const void* k_norm = nullptr;
  float rms_eps = 0.0f;
  const float* rope_cos_sin = nullptr;  // [positions, head_dim / 2, 2] fp32: (cos, sin)
  uint32_t positions = 0;               // rows of that table
};

class CudaBackend : public Backend {
 public:
  virtual cudaStream_t stream() const = 0;

  // Where pages, open groups and kept queries lie on the device: for benchmarks and tests, which
  // look at them without copying.
  virtual const cuda::DevicePool& pool() const = 0;
  virtual const cuda::QueryWindows& queries() const = 0;

  // Append for a model that lives on the device: q/k norm (where weights are given), RoPE
  // (rotating pairs (c, c + head_dim / 2)) and all that Append does, q to `io.q`, in one launch
  // over `padded_rows` rows; rows past the step's own are left alone. From the norm on nothing is
  // rounded until it is stored.
  virtual absl::Status AppendProjected(int layer, const ProjectedQkv& io, uint32_t padded_rows) = 0;

  // Waits for an event of the stream, while what has been ordered after it may still run, and
  // returns the faults met so far.
  virtual absl::Status Await(cudaEvent_t event) = 0;
};

struct CudaOptions {
  int device = 0;
};

// InvalidArgument for a configuration no kernel serves (it names the setting and what is allowed),
// ResourceExhausted when the device has not the memory, Unavailable without a usable device.
absl::StatusOr<std::unique_ptr<CudaBackend>> NewCudaBackend(const BackendConfig& config,
                                                            const CudaOptions& options);

}  // namespace palimpsest
