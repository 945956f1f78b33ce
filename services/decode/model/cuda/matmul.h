// SPDX-License-Identifier: Apache-2.0
// y = x W^T + b on the device by cuBLASLt: bf16 in, sums in fp32. Every shape is planned at start
// for every number of rows it will be run with; the algorithm is the fastest of the first that
// cuBLASLt's heuristic proposes. Which one that is can differ from process to process, and with it
// the last bits of sums. Algorithms that add with atomics are left out, so that the same plan gives
// the same bits. This is the only place that touches cuBLASLt.
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/cuda/device_memory.h"

namespace palimpsest::cuda {

enum class MatmulOutput : uint8_t {
  kBf16,      // y = x W^T + b, rounded to bf16; the bias is bf16
  kFloat,     // y = x W^T + b in fp32; the bias is fp32
  kAddFloat,  // y += x W^T + b in fp32; the bias is fp32
};

struct MatmulShape {
  int inputs = 0;  // a multiple of 8
  int outputs = 0;
  int output_stride = 0;  // elements from row to row of y, at least `outputs`
  MatmulOutput output = MatmulOutput::kBf16;
  bool has_bias = false;
};

// Device memory: W [outputs, inputs] bf16, b [outputs] or null.
struct MatmulWeights {
  const void* weights = nullptr;
  const void* bias = nullptr;
};

// What a plan is timed on: weights taken in turn, so that they come from memory and not from L2,
// and activations that may be overwritten.
struct MatmulTrial {
  std::vector<MatmulWeights> weights = {};
  const void* x = nullptr;
  void* y = nullptr;
};

struct MatmulFree {
  void operator()(cublasLtHandle_t handle) const { (void)cublasLtDestroy(handle); }
  void operator()(cublasLtMatmulDesc_t desc) const { (void)cublasLtMatmulDescDestroy(desc); }
  void operator()(cublasLtMatrixLayout_t layout) const {
    (void)cublasLtMatrixLayoutDestroy(layout);
  }
  void operator()(cublasLtMatmulPreference_t preference) const {
    (void)cublasLtMatmulPreferenceDestroy(preference);
  }
};
template <typename Handle>
using MatmulOwned = std::unique_ptr<std::remove_pointer_t<Handle>, MatmulFree>;

// cuBLASLt, its workspace, and the stream that everything runs in.
class MatmulEngine {
 public:
  static absl::StatusOr<MatmulEngine> New(cudaStream_t stream);

  static constexpr uint64_t kWorkspaceBytes = 32u << 20;

 private:
  friend class Matmul;
  MatmulOwned<cublasLtHandle_t> handle_;
  DeviceBytes workspace_;
  cudaStream_t stream_ = nullptr;
};

// One shape, planned. Must not outlive its engine.
class Matmul {
 public:
  // `rows`: the numbers of rows it can be run with. Unimplemented when cuBLASLt has no algorithm.
  static absl::StatusOr<Matmul> Plan(const MatmulEngine& engine, const MatmulShape& shape,
                                     absl::Span<const int> rows, const MatmulTrial& trial);

  // Enqueues the product of rows[bucket] rows. y does not overlap x.
  absl::Status Run(size_t bucket, const MatmulWeights& weights, const void* x, void* y) const;

  // What the chosen algorithms took when they were timed, by bucket.
  absl::Span<const float> microseconds() const { return microseconds_; }

 private:
  struct Bucket {
    MatmulOwned<cublasLtMatrixLayout_t> x, y;
    cublasLtMatmulAlgo_t algorithm = {};
  };
  using Candidates = std::vector<cublasLtMatmulHeuristicResult_t>;

  absl::Status Describe();
  absl::Status PlanBucket(int rows, const MatmulTrial& trial);
  absl::StatusOr<Candidates> Propose(const Bucket& bucket) const;
  absl::StatusOr<float> Time(const Bucket& bucket, const MatmulTrial& trial) const;
  absl::Status Enqueue(const Bucket& bucket, const MatmulWeights& weights, const void* x,
                       void* y) const;

  const MatmulEngine* engine_ = nullptr;
  MatmulShape shape_;
  MatmulOwned<cublasLtMatmulDesc_t> desc_;
  MatmulOwned<cublasLtMatrixLayout_t> weights_;
  std::vector<Bucket> buckets_;
  std::vector<float> microseconds_;
};

}  // namespace palimpsest::cuda
