// SPDX-License-Identifier: Apache-2.0
// Paged decode attention over pages of mixed formats and the open group: one kernel, one launch a
// layer, with the partial states merged inside it.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/attend_plan.h"
#include "kernels/cuda/layer_plans.h"
#include "kernels/cuda/slot_work.h"
#include "kernels/cuda/step_tables.h"

namespace palimpsest::cuda {

inline constexpr uint32_t kAttendWarps = 12;  // of a CTA: 168 registers a thread

// Everything a launch reads and writes, in device memory of fixed addresses.
struct AttendBuffers {
  const PageEntry* page_entries = nullptr;
  const AttendItem* items = nullptr;
  const uint32_t* first_item = nullptr;  // [warp_count + 1]
  // Where the header says that there are plans of layers, these tell of items, and what items of
  // such plans leave out is in the step's tables.
  const uint8_t* layer_plans = nullptr;  // null: there never are
  LayerPlanShape layer_plan;
  const StepHeader* header = nullptr;
  const StepSequence* sequences = nullptr;
  const uint32_t* words = nullptr;
  float* parts = nullptr;        // states: parts_max * queries_max * (head_dim + 2) floats
  uint32_t* arrivals = nullptr;  // [pairs_max], zero between launches
};

// The grid this device gets for head_dim; its bounds size the buffers above. `rows_max` and
// `sequences_max` bound a step.
AttendGeometry GeometryFor(const DevicePool& pool, int multiprocessors, uint32_t rows_max,
                           uint32_t sequences_max);

// True for the head dims there are kernels for: 64 and 128.
bool AttendSupports(int head_dim);

// q, out: [rows, query_heads, head_dim] bf16. `scale`: softmax scale. `trace` may be null:
// then nothing is traced, at no cost.
cudaError_t LaunchAttend(const DevicePool& pool, const DeviceLayouts& layouts,
                         const AttendGeometry& geometry, const AttendBuffers& buffers, int layer,
                         const void* q, void* out, float scale, const AttendTrace* trace,
                         cudaStream_t stream);

}  // namespace palimpsest::cuda
