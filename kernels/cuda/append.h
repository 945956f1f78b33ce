// SPDX-License-Identifier: Apache-2.0
// New tokens into the open groups: optional q/k norm, RoPE and Hadamard rotation on the way, one
// launch for all heads of all rows.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/fault_sink.h"
#include "kernels/cuda/query_sources.h"
#include "kernels/cuda/step_tables.h"

namespace palimpsest::cuda {

// bf16 heads in device memory: head h of row r begins at data + r * row_stride + h * head_dim.
struct HeadRows {
  const void* data = nullptr;  // null: there are none
  uint32_t heads = 0;
  uint32_t row_stride = 0;  // in elements
};

struct AppendParams {
  DevicePool pool;
  const StepHeader* header = nullptr;
  const StepRow* rows = nullptr;
  FaultSink faults;
  int layer = 0;
  uint32_t row_count = 0;  // rows the launch covers; those past the header's are left alone

  HeadRows q, k, v;
  void* q_out = nullptr;         // [rows, q.heads, head_dim] bf16; may be q.data; null: not wanted
  QueryWindows queries;          // where rows that keep their queries put them, if anywhere
  const void* q_norm = nullptr;  // [head_dim] bf16 RMSNorm weight, or null: no norm
  const void* k_norm = nullptr;
  float rms_eps = 0.0f;
  const float* rope_cos_sin = nullptr;  // [positions, head_dim / 2, 2], or null: no RoPE
  uint32_t positions = 0;
  bool rotate = false;  // q and k, after RoPE, by Hadamard
};

// REQUIRES: head_dim 64 or 128; every pointer at a multiple of 16 bytes, strides of 8 elements.
cudaError_t LaunchAppend(const AppendParams& params, cudaStream_t stream);

// cudaErrorNoKernelImageForDevice where these sources were not compiled for the current device.
cudaError_t ProbeAppend();

}  // namespace palimpsest::cuda
