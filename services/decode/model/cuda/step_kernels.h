// SPDX-License-Identifier: Apache-2.0
// The launches of one step, part by part: what graphs are captured from and benchmarks time.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/cuda_backend.h"
#include "services/decode/model/cuda/cuda_model.h"
#include "services/decode/model/cuda/device_weights.h"
#include "services/decode/model/cuda/elementwise.h"
#include "services/decode/model/cuda/matmul.h"
#include "services/decode/model/cuda/row_buckets.h"
#include "services/decode/model/cuda/sampling.h"
#include "services/decode/model/cuda/step_buffers.h"

namespace palimpsest::cuda {

// Where a step's inputs lie on the device, and its results.
struct StepInputs {
  TokenSource tokens;  // [rows], padding included
};
struct HeadInputs {
  const uint32_t* logit_rows = nullptr;  // [head rows], padding included: valid rows
  const SampleRow* samples = nullptr;    // [head rows]
  TokenSinks tokens;                     // [head rows]
};

class StepKernels {
 public:
  // `weights` and `backend` must outlive it. Plans all matrix products, which takes a second or
  // two for a large model.
  static absl::StatusOr<std::unique_ptr<StepKernels>> Make(const ModelConfig& config,
                                                           const CudaModelOptions& options,
                                                           const DeviceWeights* weights,
                                                           CudaBackend* backend);

  static StepBufferSizes BufferSizes(const CudaModelOptions& options);

  const RowBuckets& buckets() const { return buckets_; }
  const RowBuckets& head_buckets() const { return head_buckets_; }
  const StepBuffers& buffers() const { return buffers_; }

  // Everything up to the residual stream after the last layer, for buckets()[bucket] rows.
  absl::Status EnqueueLayers(const StepInputs& in, size_t bucket);
  // Logits of head_buckets()[bucket] rows.
  absl::Status EnqueueLogits(const HeadInputs& in, size_t bucket);
  // Tokens of the first `rows` of these.
  absl::Status EnqueueSample(const HeadInputs& in, int rows);

  // One part of a layer: any from kInputNorm to kDown.
  absl::Status EnqueuePart(StepPart part, int layer, size_t bucket);
  absl::Status EnqueueEmbed(const StepInputs& in, size_t bucket);
  absl::Status EnqueueFinalNorm(const HeadInputs& in, size_t bucket);
  absl::Status EnqueueHead(size_t bucket);

  // What observers are shown. REQUIRES: the layer is observed.
  LayerActivations Observed(int layer) const;
  bool may_observe(int layer) const { return q_of_layer_[layer] != 0; }

 private:
  StepKernels(const ModelConfig& config, const CudaModelOptions& options,
              const DeviceWeights* weights, CudaBackend* backend);

  absl::Status PlanMatmuls(Log* log);
  absl::StatusOr<Matmul> PlanLayers(MatmulOutput output, const MatmulWeights DeviceLayer::*which,
                                    int inputs, int outputs, const void* x, void* y);
  absl::Status Norm(const void* weight, int rows);
  absl::Status Append(int layer, int rows);
  absl::Status Attend(int layer);
  absl::Status SwiGluRows(int rows);
  RmsNormWeight NormOf(const void* weight) const {
    return {.weight = weight, .eps = config_.rms_eps, .hidden = config_.hidden_size};
  }
  uint8_t* QueriesOf(int layer) const { return buffers_.q[q_of_layer_[layer]]; }

  const ModelConfig config_;
  const RowBuckets buckets_, head_buckets_;
  const DeviceWeights* const weights_;
  CudaBackend* const backend_;
  cudaStream_t const stream_;
  std::vector<size_t> q_of_layer_;  // index into StepBuffers::q; 0: the common one
  StepBuffers buffers_;
  MatmulEngine engine_;
  Matmul qkv_, output_, gate_up_, down_, head_;
};

}  // namespace palimpsest::cuda
