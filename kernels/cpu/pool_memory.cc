// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/pool_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace palimpsest {

void PoolMemory::Free::operator()(uint8_t* p) const { std::free(p); }

PoolMemory::Bytes PoolMemory::AllocateZeroed(uint64_t bytes) {
  constexpr uint64_t kHugePage = uint64_t{2} << 20;
  const uint64_t alignment = bytes >= 4 * kHugePage ? kHugePage : 64;
  const uint64_t rounded = std::max<uint64_t>(1, (bytes + alignment - 1) / alignment) * alignment;
  if (rounded < bytes) return nullptr;
  auto* p = static_cast<uint8_t*>(std::aligned_alloc(alignment, rounded));
  if (p == nullptr) return nullptr;
  // A hint only: pages are read in scattered order, and small TLB entries would cost more than RAM.
  if (alignment == kHugePage) (void)madvise(p, rounded, MADV_HUGEPAGE);
  std::memset(p, 0, rounded);  // commits it now, not in the middle of a chain
  return Bytes(p);
}

absl::StatusOr<PoolMemory> PoolMemory::Allocate(const BackendConfig& config) {
  PoolMemory memory(config);
  const uint64_t open_bytes = config.open_groups * uint64_t{OpenGroupBytes(config.shape)};
  memory.pool_ = AllocateZeroed(config.pool_bytes);
  memory.open_ = AllocateZeroed(open_bytes);
  const uint64_t query_bytes = config.open_groups * uint64_t{memory.query_bytes()};
  memory.queries_ = AllocateZeroed(query_bytes);
  if (memory.pool_ == nullptr || memory.open_ == nullptr || memory.queries_ == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot allocate a pool of ", config.pool_bytes, " bytes, ", open_bytes,
                     " bytes of open groups and ", query_bytes, " bytes of queries"));
  }
  return memory;
}

LaneRef PoolMemory::lane(PageFormat format, PageOffset page, int layer, int kv_head) const {
  const PageLayout& layout = this->layout(format);
  uint8_t* base = this->page(page);
  return {.layout = &layout,
          .bytes = base + layout.LaneOffset(layer, kv_head),
          .positions = reinterpret_cast<uint32_t*>(base + layout.PositionsOffset(layer, kv_head)),
          .scores = shape().slot_scores
                        ? reinterpret_cast<float*>(base + layout.ScoresOffset(layer, kv_head))
                        : nullptr,
          .live = reinterpret_cast<uint16_t*>(base + layout.MaskOffset(layer, kv_head))};
}

uint16_t* PoolMemory::open_keys(uint32_t group, int layer, int kv_head) const {
  const size_t lane = static_cast<size_t>(layer) * shape().kv_heads + kv_head;
  return reinterpret_cast<uint16_t*>(open_group(group) + lane * OpenGroupLaneBytes(shape()));
}

uint16_t* PoolMemory::open_values(uint32_t group, int layer, int kv_head) const {
  return open_keys(group, layer, kv_head) + static_cast<size_t>(kGroupTokens) * shape().head_dim;
}

float* PoolMemory::open_scores(uint32_t group, int layer, int kv_head) const {
  if (!shape().slot_scores) return nullptr;
  return reinterpret_cast<float*>(open_group(group) +
                                  OpenGroupScoresOffset(shape(), layer, kv_head));
}

uint16_t* PoolMemory::queries(uint32_t group, int layer, int query_head) const {
  const size_t head = static_cast<size_t>(layer) * config().query_heads + query_head;
  return reinterpret_cast<uint16_t*>(queries_.get() + group * query_bytes()) +
         head * config().query_window * shape().head_dim;
}

void PoolMemory::ZeroOpenGroup(uint32_t group) const {
  std::memset(open_group(group), 0, OpenGroupBytes(shape()));
  std::memset(queries_.get() + group * query_bytes(), 0, query_bytes());
}

}  // namespace palimpsest
