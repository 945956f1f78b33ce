// SPDX-License-Identifier: Apache-2.0
// What the parts of the backend have in common: the pool, as host and device see it, and the stream
// they all work in. The backend owns what it points to.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/fault_sink.h"
#include "kernels/cuda/step_tables.h"
#include "kernels/pool_layout.h"

namespace palimpsest::cuda {

struct DeviceContext {
  const PoolLayout* layout = nullptr;
  DevicePool pool;
  DeviceLayouts layouts;
  FaultSink faults;
  cudaStream_t stream = nullptr;
};

// Offsets of all kinds of page, as kernels take them.
inline DeviceLayouts DeviceLayoutsOf(const PoolLayout& pool) {
  DeviceLayouts layouts;
  for (const Format k : kFormats) {
    for (const Format v : kFormats) {
      const PageLayout& page = pool.page({k, v});
      layouts.of[FormatPair({k, v})] = {
          .k_scales_offset = static_cast<uint32_t>(page.k_scales_offset),
          .v_data_offset = static_cast<uint32_t>(page.v_data_offset),
          .v_scales_offset = static_cast<uint32_t>(page.v_scales_offset),
          .lane_bytes = static_cast<uint32_t>(page.lane_bytes),
          .positions_offset = page.positions_offset,
          .scores_offset = page.scores_offset,
          .masks_offset = page.masks_offset};
    }
  }
  return layouts;
}

}  // namespace palimpsest::cuda
