// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/seal.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/codec.h"
#include "kernels/cpu/hadamard.h"
#include "kernels/cpu/lane_blocks.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/tile.h"

namespace palimpsest {
namespace {

struct Lane {
  int layer = 0;
  int kv_head = 0;
};
Lane LaneAt(const CacheShape& shape, int64_t index) {
  return {static_cast<int>(index) / shape.kv_heads, static_cast<int>(index) % shape.kv_heads};
}

uint32_t DeadSlots(const PoolMemory& memory, const SequenceView& view, Thought thought, Lane at) {
  uint32_t dead = 0;
  const LaneBlocks blocks(memory, view, thought, at.layer, at.kv_head);
  for (uint32_t i = 0; i < blocks.size(); ++i) {
    dead += kSlotsPerPage - static_cast<uint32_t>(std::popcount(*blocks[i].live));
  }
  return dead;
}

// Of V as stored. In channel order.
float ValueNorm(const LaneRef& lane, int slot) {
  const Format format = lane.layout->format.v;
  const int dim = lane.layout->shape.head_dim;
  float v[kMaxHeadDim];
  DecodeSlot(format, lane.v_data() + slot * SlotDataBytes(format, dim),
             lane.v_scales() + slot * SlotScaleBytes(format, dim), dim, v);
  float norm = 0.0f;
  for (int c = 0; c < dim; ++c) norm += std::fabs(v[c]);
  return norm;
}

// Writes one token (bf16 K and V, [head_dim]) to a dead slot.
void WriteSlot(const LaneRef& lane, int slot, const uint16_t* k, const uint16_t* v,
               uint32_t position) {
  const PageLayout& layout = *lane.layout;
  const int dim = layout.shape.head_dim;
  const auto encode = [&](Format format, const uint16_t* from, uint8_t* data, uint8_t* scales) {
    float x[kMaxHeadDim];
    for (int c = 0; c < dim; ++c) x[c] = Bf16ToFloat(from[c]);
    EncodeSlot(format, x, dim, data + slot * SlotDataBytes(format, dim),
               scales + slot * SlotScaleBytes(format, dim));
  };
  encode(layout.format.k, k, lane.bytes, lane.bytes + layout.k_scales_offset);
  encode(layout.format.v, v, lane.bytes + layout.v_data_offset,
         lane.bytes + layout.v_scales_offset);
  lane.positions[slot] = position;
  *lane.live = static_cast<uint16_t>(*lane.live | 1u << slot);
}

void SealLane(const PoolMemory& memory, const SequenceView& view, Thought thought, Lane at) {
  const uint16_t* k = memory.open_keys(view.open_group, at.layer, at.kv_head);
  const uint16_t* v = memory.open_values(view.open_group, at.layer, at.kv_head);
  const float* received = memory.open_scores(view.open_group, at.layer, at.kv_head);
  const size_t dim = static_cast<size_t>(memory.shape().head_dim);
  const LaneBlocks blocks(memory, view, thought, at.layer, at.kv_head);
  uint32_t token = 0;
  for (uint32_t i = 0; i < blocks.size(); ++i) {
    const LaneRef lane = blocks[i];
    uint32_t dead = static_cast<uint16_t>(~*lane.live);
    for (; dead != 0 && token < view.open_count; dead &= dead - 1, ++token) {
      const int slot = std::countr_zero(dead);
      WriteSlot(lane, slot, k + token * dim, v + token * dim, view.open_position + token);
      if (view.slot_score == SlotScore::kAttentionReceived) lane.scores[slot] = received[token];
      if (view.slot_score == SlotScore::kValueNorm) lane.scores[slot] = ValueNorm(lane, slot);
    }
    if (token == view.open_count) return;
  }
}

}  // namespace

void Append(const PoolMemory& memory, int layer, absl::Span<const SequenceView> sequences,
            absl::Span<const StepRows> rows, const NewTokens& tokens) {
  const size_t dim = static_cast<size_t>(memory.shape().head_dim);
  const size_t heads = static_cast<size_t>(memory.shape().kv_heads);
  const auto* k = static_cast<const float*>(tokens.k);
  const auto* v = static_cast<const float*>(tokens.v);
  const size_t q_width = dim * static_cast<size_t>(memory.config().query_heads);
  for (const StepRows& r : rows) {
    const SequenceView& view = sequences[r.sequence];
    if (memory.config().rotate_keys) {
      float* const q = static_cast<float*>(tokens.q) + r.row * q_width;
      HadamardHeads({q, r.count * q_width}, static_cast<int>(dim));
    }
    for (size_t h = 0; h < heads; ++h) {
      uint16_t* keys = memory.open_keys(view.open_group, layer, static_cast<int>(h));
      uint16_t* values = memory.open_values(view.open_group, layer, static_cast<int>(h));
      float* const scores = memory.open_scores(view.open_group, layer, static_cast<int>(h));
      if (scores != nullptr) std::fill_n(scores + view.open_count, r.count, 0.0f);
      for (uint32_t i = 0; i < r.count; ++i) {
        const size_t from = ((size_t{r.row} + i) * heads + h) * dim;
        const size_t to = (view.open_count + i) * dim;
        float key[kMaxHeadDim];
        std::copy_n(k + from, dim, key);
        if (memory.config().rotate_keys) Hadamard(absl::MakeSpan(key, dim));
        for (size_t c = 0; c < dim; ++c) {
          keys[to + c] = FloatToBf16(key[c]);
          values[to + c] = FloatToBf16(v[from + c]);
        }
      }
    }
  }
}

absl::Status Seal(const PoolMemory& memory, absl::Span<const SequenceView> sequences,
                  absl::Span<const SealOrder> orders, TaskTeam& team) {
  const int64_t lanes = memory.shape().lanes();
  for (const SealOrder& order : orders) {
    const SequenceView& view = sequences[order.sequence];
    for (int64_t i = 0; i < lanes; ++i) {
      const Lane at = LaneAt(memory.shape(), i);
      const uint32_t dead = DeadSlots(memory, view, order.thought, at);
      if (dead >= view.open_count) continue;
      return absl::FailedPreconditionError(absl::StrCat(
          "sequence ", order.sequence, ", class ", Letter(order.thought), ", layer ", at.layer,
          ", KV head ", at.kv_head, ": ", dead, " dead slots for ", view.open_count, " tokens"));
    }
  }
  ParallelFor(team, static_cast<int64_t>(orders.size()) * lanes, [&](int64_t i) {
    const SealOrder& order = orders[i / lanes];
    SealLane(memory, sequences[order.sequence], order.thought, LaneAt(memory.shape(), i % lanes));
  });
  return absl::OkStatus();
}

}  // namespace palimpsest
