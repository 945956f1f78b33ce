// SPDX-License-Identifier: Apache-2.0
// The CPU backend's memory: one pool of pages, one array of open groups and one of query windows,
// all allocated when the backend is made. Everything else in kernels/cpu borrows it.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/pool_layout.h"

namespace palimpsest {

// One (layer, KV head) of one page. Borrowed; valid while the PoolMemory lives.
struct LaneRef {
  const PageLayout* layout = nullptr;
  uint8_t* bytes = nullptr;       // K data, K scales, V data, V scales
  uint32_t* positions = nullptr;  // [16]
  float* scores = nullptr;        // [16]; null where slots carry none
  uint16_t* live = nullptr;       // bit s: slot s holds a live token

  const uint8_t* k_data() const { return bytes; }
  const uint8_t* k_scales() const { return bytes + layout->k_scales_offset; }
  const uint8_t* v_data() const { return bytes + layout->v_data_offset; }
  const uint8_t* v_scales() const { return bytes + layout->v_scales_offset; }
};

class PoolMemory {
 public:
  // ResourceExhausted when the memory is not to be had. REQUIRES: `config` was checked.
  static absl::StatusOr<PoolMemory> Allocate(const BackendConfig& config);

  const PoolLayout& layout() const { return layout_; }
  const BackendConfig& config() const { return layout_.config(); }
  const CacheShape& shape() const { return layout_.shape(); }
  const PageLayout& layout(PageFormat format) const { return layout_.page(format); }

  uint8_t* page(PageOffset offset) const { return pool_.get() + offset; }
  LaneRef lane(PageFormat format, PageOffset page, int layer, int kv_head) const;

  // [16][head_dim] bf16 of one lane of an open group: K, and V behind it.
  uint16_t* open_keys(uint32_t group, int layer, int kv_head) const;
  uint16_t* open_values(uint32_t group, int layer, int kv_head) const;
  float* open_scores(uint32_t group, int layer, int kv_head) const;  // [16]; null as in LaneRef
  // [query_window][head_dim] bf16: the newest queries of one query head of the sequence that has
  // this open group. That of position p lies in row p % query_window.
  uint16_t* queries(uint32_t group, int layer, int query_head) const;
  // The sums of K and of V [2][head_dim] of what was evicted, and how many tokens that were.
  // REQUIRES: CacheShape::residue.
  float* residue(uint32_t group, int layer, int kv_head) const {
    return reinterpret_cast<float*>(open_group(group) +
                                    OpenGroupResidueOffset(shape(), layer, kv_head));
  }
  void ZeroOpenGroup(uint32_t group) const;  // and its queries

 private:
  struct Free {
    void operator()(uint8_t* p) const;
  };
  explicit PoolMemory(const BackendConfig& config) : layout_(config) {}
  using Bytes = std::unique_ptr<uint8_t[], Free>;
  static Bytes AllocateZeroed(uint64_t bytes);
  uint8_t* open_group(uint32_t group) const {
    return open_.get() + group * OpenGroupBytes(shape());
  }
  size_t query_bytes() const {  // of one open group
    return QueryWindowBytes(shape(), config().query_heads, config().query_window);
  }

  PoolLayout layout_;
  Bytes pool_;
  Bytes open_;
  Bytes queries_;
};

}  // namespace palimpsest
