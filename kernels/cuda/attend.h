// SPDX-License-Identifier: Apache-2.0
// Paged decode attention over pages of mixed formats and the open group: one kernel, one launch a
// layer, with the partial states merged inside it.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/attend_plan.h"
#include "kernels/cuda/step_tables.h"

namespace palimpsest::cuda {

// Everything a launch reads and writes, in device memory of fixed addresses.
struct AttendBuffers {
  const PageEntry* page_entries = nullptr;
  const AttendItem* items = nullptr;
  const uint32_t* first_item = nullptr;  // [warp_count + 1]
  float* parts = nullptr;                // states: parts_max * queries_max * (head_dim + 2) floats
  uint32_t* arrivals = nullptr;          // [pairs_max], zero between launches
};

// What a traced launch leaves behind of its softmax, for slot_scores.h: of items whose slot_use is
// not kNone, the probability of each slot and query head. *Pages* are the step's, first_page being
// the first; behind them come open groups: that of the sequence whose one row is r is page
// pages_max + r. Query heads of a KV group are stored in pairs, `blocks` times 2, 4 or 8 of them;
// the last may be of no head.
struct AttendTrace {
  // [pages][kv_heads][blocks][16 slots][pairs] two bf16, unnormalised.
  uint32_t* probabilities = nullptr;
  float* references = nullptr;  // [pages][kv_heads][blocks][pairs][2]: log2 of what they are
                                // relative to
  float* log_sums = nullptr;    // [rows][kv_heads][blocks][pairs][2]: log2 of the denominators
  uint32_t first_page = 0;      // index of the step's first page entry
  uint32_t pages_max = 0;
  uint32_t blocks = 1;
  uint32_t pairs = 4;  // 1, 2 or 4
};

// The grid this device gets for head_dim; its bounds size the buffers above. `rows_max` and
// `sequences_max` bound a step.
AttendGeometry GeometryFor(const DevicePool& pool, int multiprocessors, uint32_t rows_max,
                           uint32_t sequences_max);

// True for the head dims there are kernels for: 64 and 128.
bool AttendSupports(int head_dim);

// q, out: [rows, query_heads, head_dim] bf16. `scale`: softmax scale. `trace` may be null: then
// nothing is traced, at no cost.
cudaError_t LaunchAttend(const DevicePool& pool, const DeviceLayouts& layouts,
                         const AttendGeometry& geometry, const AttendBuffers& buffers, int layer,
                         const void* q, void* out, float scale, const AttendTrace* trace,
                         cudaStream_t stream);

}  // namespace palimpsest::cuda
