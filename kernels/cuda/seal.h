// SPDX-License-Identifier: Apache-2.0
// Open groups into pages: quantise, and place into dead slots.
//
// Two launches. The first finds a place for every token of every lane and writes nothing but a
// table of places; where a lane lacks room it marks the whole call. The second, unless the call is
// marked, quantises and writes. So a call is carried out whole or not at all, without the host.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "common/base/selector.h"
#include "common/base/thought.h"
#include "kernels/cuda/fault_sink.h"
#include "kernels/cuda/step_tables.h"
#include "kernels/cuda/uneven_table.h"

namespace palimpsest::cuda {

// One SealOrder as the device sees it. The pages of its class lie at entries[first_page ...].
struct SealEntry {
  uint32_t first_page = 0;
  uint32_t page_count = 0;
  uint32_t open_group = 0;
  uint32_t open_count = 0;
  uint32_t open_position = 0;
  uint32_t sequence = 0;      // for what is told of a fault
  uint32_t table = kNoTable;  // of an uneven sequence: where its UnevenTable begins
  uint8_t format_pair = 0;
  Thought thought{};
  SlotScore slot_score{};
};
static_assert(sizeof(SealEntry) == 32 && kFormatPairs <= 256);

// Where a token goes: a SlotPlace, and from this bit on the place of the lane's block in the page.
inline constexpr int kBlockPlaceBit = 44;

struct SealParams {
  DevicePool pool;
  DeviceLayouts layouts;
  const SealEntry* orders = nullptr;
  const PageEntry* entries = nullptr;
  const uint32_t* tables = nullptr;  // of uneven sequences
  uint32_t order_count = 0;
  uint64_t* places = nullptr;        // [order_count][lanes][16]
  uint32_t* refused_call = nullptr;  // the number of the last call that lacked room
  uint32_t call = 0;                 // this one's: 1, 2, ...
  FaultSink faults;
};

// REQUIRES: head_dim 64 or 128; pages of one call do not overlap, and lie within 16 TiB.
cudaError_t LaunchSeal(const SealParams& params, cudaStream_t stream);

}  // namespace palimpsest::cuda
