// SPDX-License-Identifier: Apache-2.0
// The byte layout of a page, shared by every backend and by the wire. Golden tests fix it.
//
// A page holds 16 slots for every layer and KV head of one sequence, in one format:
//
//   page = [layer][kv_head] { K data  [16][D * bits(k) / 8]
//                             K scales[16][D / 16]          E4M3, absent for bf16
//                             V data  [16][D * bits(v) / 8]
//                             V scales[16][D / 16]          E4M3, absent for bf16 }
//          [layer][kv_head] positions[16] u32   position of the token in its sequence
//          [layer][kv_head] scores[16]    f32   only where CacheShape::slot_scores
//          [layer][kv_head] live mask      u16   bit s: slot s holds a live token
//          zero padding to a multiple of kPageAlignment bytes
//
// A slot is self-contained: its scales lie beside it, so that a dead slot can be overwritten
// without touching another token. All integers are little-endian.
//
// Channels inside a slot: every 32-bit word holds n = 32 / bits consecutive channels, the even ones
// in its low half and the odd ones in its high half, ascending: channel 2j of the word is element
// j, channel 2j + 1 element j + n / 2. (For bf16 that is the natural order.) Tensor cores want
// neighbouring channels as the two halves of a register; so a shift and a mask make them.
//
// The elements of fp8, ternary and int4 lie one after the other. Those of nvfp4, a sign s and a
// magnitude m of 3 bits each, are scattered over their half:
//
//   bit      15  14  13  12  11..9  8..6  5..3  2..0
//            s0  s2  s3  s1   m3     m0    m1    m2
//
// A bf16 has its sign in bit 15, its exponent's low bits in 8 and 7, its first mantissa bit in 6.
// Element 0 lies there already and element 1 comes there by one shift; 2 and 3 need two.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/base/format.h"

namespace palimpsest {

inline constexpr int kSlotsPerPage = 16;
inline constexpr int kGroupTokens = 16;  // tokens quantised together: one page's worth
inline constexpr int kChannelsPerScale = 16;
inline constexpr size_t kPageAlignment = 128;  // a line of the caches: so every lane starts at one

// What a model's cache looks like. head_dim is a multiple of 16.
struct CacheShape {
  int layers = 0;
  int kv_heads = 0;
  int head_dim = 0;
  bool slot_scores = false;  // slots carry a float for selectors that judge tokens as they go
  bool residue = false;      // sequences keep the sums of K and V of what anneals evicted

  constexpr int lanes() const { return layers * kv_heads; }  // a lane is one (layer, KV head)
  bool operator==(const CacheShape&) const = default;
};

constexpr int BitsPerElement(Format format) {
  switch (format) {
    case Format::kBf16:
      return 16;
    case Format::kFp8:
      return 8;
    case Format::kNvfp4:
    case Format::kInt4:
      return 4;
    case Format::kTernary:
      return 2;
  }
  return 0;
}

// Where channel `channel` of a slot lies: the first of its bits (nvfp4: of its magnitude's),
// counted from the slot's data on.
constexpr int ChannelBit(Format format, int channel) {
  const int bits = BitsPerElement(format);
  const int channels = 32 / bits;  // of a word
  const int element = channel % channels / 2;
  const int half = channel / channels * 32 + channel % 2 * 16;  // its first bit
  if (format == Format::kNvfp4) return half + (element == 3 ? 9 : 6 - 3 * element);
  return half + element * bits;
}

// Where the sign of a channel lies in nvfp4.
constexpr int Nvfp4SignBit(int channel) {
  constexpr int kSigns[] = {15, 12, 14, 13};
  return channel / 8 * 32 + channel % 2 * 16 + kSigns[channel % 8 / 2];
}

constexpr bool HasScales(Format format) { return format != Format::kBf16; }

// The stored scale is multiplied by this constant when read. E4M3 reaches from 2^-9 to 448; the
// constant puts block maxima from about 0.01 to 600 into its normal range, and costs no bytes
// (NVFP4's second level, fixed instead of per tensor).
constexpr float SecondLevelScale(Format format) {
  switch (format) {
    case Format::kBf16:
      return 1.0f;
    case Format::kFp8:
      return 1.0f / 256;
    case Format::kNvfp4:
    case Format::kTernary:
    case Format::kInt4:
      return 1.0f / 4;
  }
  return 1.0f;
}

constexpr size_t SlotDataBytes(Format format, int head_dim) {
  return static_cast<size_t>(head_dim) * BitsPerElement(format) / 8;
}
constexpr size_t SlotScaleBytes(Format format, int head_dim) {
  return HasScales(format) ? static_cast<size_t>(head_dim) / kChannelsPerScale : 0;
}

// Offsets inside a page of one format. A plain value: compute once, pass to kernels.
struct PageLayout {
  PageFormat format;
  CacheShape shape;
  // Inside a lane.
  size_t k_scales_offset = 0;
  size_t v_data_offset = 0;
  size_t v_scales_offset = 0;
  size_t lane_bytes = 0;
  // Inside the page.
  size_t positions_offset = 0;
  size_t scores_offset = 0;  // masks_offset where there are none
  size_t masks_offset = 0;
  size_t page_bytes = 0;

  size_t LaneOffset(int layer, int kv_head) const {
    return (static_cast<size_t>(layer) * shape.kv_heads + kv_head) * lane_bytes;
  }
  size_t PositionsOffset(int layer, int kv_head) const {
    return positions_offset +
           (static_cast<size_t>(layer) * shape.kv_heads + kv_head) * kSlotsPerPage * 4;
  }
  size_t ScoresOffset(int layer, int kv_head) const {
    return scores_offset +
           (static_cast<size_t>(layer) * shape.kv_heads + kv_head) * kSlotsPerPage * 4;
  }
  size_t MaskOffset(int layer, int kv_head) const {
    return masks_offset + (static_cast<size_t>(layer) * shape.kv_heads + kv_head) * 2;
  }
};

constexpr PageLayout MakePageLayout(const CacheShape& shape, PageFormat format) {
  PageLayout layout{.format = format, .shape = shape};
  const size_t slots = kSlotsPerPage;
  layout.k_scales_offset = slots * SlotDataBytes(format.k, shape.head_dim);
  layout.v_data_offset = layout.k_scales_offset + slots * SlotScaleBytes(format.k, shape.head_dim);
  layout.v_scales_offset = layout.v_data_offset + slots * SlotDataBytes(format.v, shape.head_dim);
  layout.lane_bytes = layout.v_scales_offset + slots * SlotScaleBytes(format.v, shape.head_dim);
  layout.positions_offset = static_cast<size_t>(shape.lanes()) * layout.lane_bytes;
  const size_t words = static_cast<size_t>(shape.lanes()) * slots * 4;
  layout.scores_offset = layout.positions_offset + words;
  layout.masks_offset = layout.scores_offset + (shape.slot_scores ? words : 0);
  const size_t used = layout.masks_offset + static_cast<size_t>(shape.lanes()) * 2;
  layout.page_bytes = (used + kPageAlignment - 1) / kPageAlignment * kPageAlignment;
  return layout;
}

// An open group: up to 16 tokens not yet quantised.
//   [layer][kv_head] { K [16][D] bf16, V [16][D] bf16 }
//   [layer][kv_head] scores[16] f32, only where CacheShape::slot_scores
//   [layer][kv_head] { sum of K [D] f32, sum of V [D] f32, how many [4] f32, of which the first }
//                    only where CacheShape::residue: of what anneals evicted
constexpr size_t OpenGroupLaneBytes(const CacheShape& shape) {
  return 2 * static_cast<size_t>(kGroupTokens) * shape.head_dim * 2;
}
constexpr size_t OpenGroupScoresOffset(const CacheShape& shape, int layer, int kv_head) {
  return static_cast<size_t>(shape.lanes()) * OpenGroupLaneBytes(shape) +
         (static_cast<size_t>(layer) * shape.kv_heads + kv_head) * kGroupTokens * 4;
}
constexpr size_t ResidueLaneBytes(const CacheShape& shape) {
  return (2 * static_cast<size_t>(shape.head_dim) + 4) * 4;
}
constexpr size_t OpenGroupResidueOffset(const CacheShape& shape, int layer, int kv_head) {
  const size_t scores = shape.slot_scores ? size_t{kGroupTokens} * 4 : 0;
  return static_cast<size_t>(shape.lanes()) * (OpenGroupLaneBytes(shape) + scores) +
         (static_cast<size_t>(layer) * shape.kv_heads + kv_head) * ResidueLaneBytes(shape);
}
constexpr size_t OpenGroupBytes(const CacheShape& shape) {
  return OpenGroupResidueOffset(shape, 0, 0) +
         (shape.residue ? static_cast<size_t>(shape.lanes()) * ResidueLaneBytes(shape) : 0);
}

// The newest `window` queries of one sequence: [layer][query head][window][D] bf16.
constexpr size_t QueryWindowBytes(const CacheShape& shape, int query_heads, uint32_t window) {
  return static_cast<size_t>(shape.layers) * query_heads * window * shape.head_dim * 2;
}

// What one token costs in the full cache: K and V in bf16 for every lane, nothing else.
constexpr size_t FullTokenBytes(const CacheShape& shape) {
  return static_cast<size_t>(shape.lanes()) * shape.head_dim * 2 * 2;
}

}  // namespace palimpsest
