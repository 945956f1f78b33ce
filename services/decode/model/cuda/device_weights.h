// SPDX-License-Identifier: Apache-2.0
// The weights of a model on the device: one allocation, bf16, projections of the same input fused.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/device_memory.h"
#include "services/decode/model/cuda/matmul.h"
#include "services/decode/model/model_config.h"
#include "services/decode/model/safetensors.h"

namespace palimpsest::cuda {

// One tensor's place on the device, to be filled with what its name stands for.
struct DeviceTensor {
  std::string name;
  std::vector<int64_t> shape;
  bool is_float = false;  // fp32 instead of bf16: biases that are added to fp32 sums
  uint8_t* data = nullptr;

  uint64_t elements() const;
  uint64_t bytes() const { return elements() * (is_float ? 4 : 2); }
};

// Fills one tensor; may do so asynchronously in the stream.
using TensorFill = std::function<absl::Status(const DeviceTensor&)>;

// From files: bf16 as it is, other types rounded to it. The store must outlive the fill.
TensorFill FillFromStore(const WeightStore* store, cudaStream_t stream);

// Random, made on the device: what NewSyntheticCpuModel of the same seed has, rounded to bf16.
TensorFill FillSynthetic(uint64_t seed, cudaStream_t stream);

struct DeviceLayer {
  const void* input_norm = nullptr;  // [hidden] bf16, as all norms
  const void* post_norm = nullptr;
  const void* q_norm = nullptr;  // [head_dim], or null
  const void* k_norm = nullptr;
  MatmulWeights qkv;      // rows of q, then k, then v
  MatmulWeights output;   // fp32 bias
  MatmulWeights gate_up;  // rows of gate, then up
  MatmulWeights down;     // fp32 bias
};

class DeviceWeights {
 public:
  // Bytes Make allocates.
  static uint64_t BytesFor(const ModelConfig& config);

  // Allocates, fills, and waits for it. The status of `fill` names the tensor at fault.
  static absl::StatusOr<DeviceWeights> Make(const ModelConfig& config, const TensorFill& fill,
                                            cudaStream_t stream);

  uint64_t bytes() const { return bytes_; }
  const void* embedding() const { return tables_.embedding; }    // [vocab, hidden]
  const void* final_norm() const { return tables_.final_norm; }  // [hidden]
  const MatmulWeights& head() const { return tables_.head; }     // the embedding when tied
  const std::vector<DeviceLayer>& layers() const { return tables_.layers; }

 private:
  struct Tables {
    const void* embedding = nullptr;
    const void* final_norm = nullptr;
    MatmulWeights head;
    std::vector<DeviceLayer> layers;
  };
  class Placer;

  Tables tables_;
  DeviceBytes memory_;
  uint64_t bytes_ = 0;
};

}  // namespace palimpsest::cuda
