// SPDX-License-Identifier: Apache-2.0
// Device memory of a step, of fixed addresses: one allocation for the largest step there may be.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cuda/device_memory.h"
#include "services/decode/model/model_config.h"

namespace palimpsest::cuda {

struct StepBufferSizes {
  int rows_max = 0;
  int head_rows_max = 0;  // logit rows whose logits are held at once
  int observed_layers = 0;
};

// Rows are contiguous; bf16 unless said otherwise.
struct StepBuffers {
  static absl::StatusOr<StepBuffers> Make(const ModelConfig& config, const StepBufferSizes& sizes,
                                          cudaStream_t stream);
  // Bytes Make allocates.
  static uint64_t BytesFor(const ModelConfig& config, const StepBufferSizes& sizes);

  float* residual = nullptr;    // [rows, hidden] fp32
  uint8_t* normed = nullptr;    // [rows, hidden]
  uint8_t* qkv = nullptr;       // [rows, query_size + 2 * kv_size]
  std::vector<uint8_t*> q;      // [rows, query_size]: the common one, then each observed layer's
  uint8_t* attended = nullptr;  // [rows, query_size]
  uint8_t* gate_up = nullptr;   // [rows, 2 * intermediate]
  uint8_t* gated = nullptr;     // [rows, intermediate]
  float* logits = nullptr;      // [head_rows, logit_stride] fp32
  int logit_stride = 0;
  float* rope_cos_sin = nullptr;  // [max_positions, head_dim / 2, 2] fp32

  DeviceBytes memory;
  uint64_t bytes = 0;

 private:
  void Place(const ModelConfig& config, const StepBufferSizes& sizes, uint8_t* base);
};

}  // namespace palimpsest::cuda
