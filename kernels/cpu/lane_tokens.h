// SPDX-License-Identifier: Apache-2.0
// The live tokens of one lane in one class's pages, in order of position: what selectors see.
#pragma once

#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/lane_blocks.h"
#include "kernels/cpu/pool_memory.h"

namespace palimpsest {

// One (layer, KV head) of the pages of one class of a sequence. Borrowed.
struct ClassLane {
  const PoolMemory& memory;
  const SequenceView& view;
  Thought thought;
  int layer;
  int kv_head;

  int head_dim() const { return memory.shape().head_dim; }
  // Query heads of the KV head's group, and the first of them.
  int group_heads() const { return memory.config().query_heads / memory.shape().kv_heads; }
  int first_query_head() const { return kv_head * group_heads(); }
  LaneBlocks blocks() const { return {memory, view, thought, layer, kv_head}; }
};

struct LiveToken {
  uint32_t position = 0;
  uint32_t block = 0;  // of the lane's, in the class's pages
  int slot = 0;
};
using LaneTokens = std::vector<LiveToken>;  // ascending positions

// Those with positions in [first_position, end_position).
LaneTokens LiveTokens(const ClassLane& lane, uint32_t first_position, uint32_t end_position);

// Writes the keys of `tokens`, as stored (de-quantised), to rows of `stride` floats.
void GatherKeys(const ClassLane& lane, const LaneTokens& tokens, float* out, size_t stride);
void GatherValues(const ClassLane& lane, const LaneTokens& tokens, float* out, size_t stride);

}  // namespace palimpsest
