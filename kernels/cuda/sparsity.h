// SPDX-License-Identifier: Apache-2.0
// Attention sparsity (ThinKV appendix C.2) of some sequences of a step at one layer; what exactly
// is said at Backend::MeasureSparsity. One launch for up to 256 sequences, three phases inside it:
// logits of all keys, then (the last CTA of a KV head) softmax in order of position, then (the last
// of a sequence) the mean over heads and the count. Reads K once, V never.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/step_tables.h"

namespace palimpsest::cuda {

// Written where the KV heads of a sequence have different numbers of live keys, which the seam
// rules out.
inline constexpr float kUnequalHeads = -1.0f;

struct SparsityParams {
  DevicePool pool;
  DeviceLayouts layouts;
  // Of the step, in device memory.
  const PageEntry* page_entries = nullptr;
  const StepSequence* sequences = nullptr;

  int layer = 0;
  const void* q = nullptr;  // [rows, query_heads, head_dim] bf16
  float scale = 0.0f;       // of the softmax

  // Which sequences, by index into `sequences`. Host memory, copied by the launch.
  const uint32_t* wanted = nullptr;
  uint32_t wanted_count = 0;
  uint32_t pages_max = 0;  // the largest page_count among them

  void* scratch = nullptr;  // SparsityScratchBytes, at a multiple of 16 bytes
  uint64_t scratch_bytes = 0;
  uint32_t* arrivals = nullptr;  // [SparsityArrivals]; zero before the first launch, and after each
  float* sparsity = nullptr;     // [wanted_count], out; memory the device can write
};

// Scratch for a pool: 64 MiB, or less where the pool cannot hold so many keys. `page_bytes_min` is
// the size of the smallest page.
uint64_t SparsityScratchBytes(const DevicePool& pool, uint64_t pool_bytes, uint64_t page_bytes_min);

// Pages the largest sequence may have: about 43,000 with 8 KV heads (700,000 tokens).
uint32_t SparsityPagesMax(const DevicePool& pool, uint64_t scratch_bytes);

// uint32_t elements behind `arrivals`.
uint32_t SparsityArrivals(const DevicePool& pool);

// Sequences are done in as many launches as scratch (12 * kv_heads * (pages_max + 1) * 16 bytes a
// sequence) asks for; one, as a rule. cudaErrorInvalidValue when pages_max is too large for it.
// REQUIRES: head_dim a multiple of 16 up to 256; a row of q at a multiple of 16 bytes; the queries
// of a KV head (2 * head_dim bytes each) fit 32 KiB.
cudaError_t LaunchSparsity(const SparsityParams& params, cudaStream_t stream);

}  // namespace palimpsest::cuda
