// SPDX-License-Identifier: Apache-2.0
// Bytes of a group: 16 tokens of bf16 in, the same tokens in the class's formats out, and the live
// masks of the class's pages (2 bytes a lane and page) once or twice. For an 8B model (32 layers, 8
// KV heads of 128): 2 MiB in, 0.6 MiB out as nvfp4.
#include "kernels/cuda/codec.cuh"
#include "kernels/cuda/lane_blocks.cuh"
#include "kernels/cuda/page_lane.cuh"
#include "kernels/cuda/seal.h"

namespace palimpsest::cuda {
namespace {

constexpr int kLanesPerCta = 32;
constexpr int kStrips = 16;  // a class's pages are counted in so many runs at once

__device__ __forceinline__ uint64_t PlaceInPool(const LaneBlock& block, uint32_t slot) {
  return PageOffsetOf(block.entry) | slot | uint64_t{block.place} << kBlockPlaceBit;
}

// Finds places for an order's tokens in one lane's blocks, `count` of them. For a whole CTA, of
// which every thread has a strip of a lane. `valid`: there is such a lane.
template <typename Blocks>
__device__ __forceinline__ void PlaceTokens(const SealParams& p, const SealEntry& order,
                                            uint32_t lane, bool valid, const Blocks& blocks,
                                            uint32_t count,
                                            uint32_t (&dead_of)[kStrips][kLanesPerCta],
                                            uint64_t* places) {
  const uint32_t strip = threadIdx.y;
  const uint8_t* masks = p.pool.pages + p.layouts.of[order.format_pair].masks_offset;
  const auto dead_slots = [&](const LaneBlock& block) {
    const uint8_t* mask = masks + PageOffsetOf(block.entry) + block.place * 2;
    return ~*reinterpret_cast<const uint16_t*>(mask) & 0xffffu;
  };
  const uint32_t per_strip = (count + kStrips - 1) / kStrips;
  const uint32_t first = min(strip * per_strip, count);
  const uint32_t end = min(first + per_strip, count);
  uint32_t dead = 0;
  if (valid) {
#pragma unroll 8
    for (uint32_t i = first; i < end; ++i) dead += __popc(dead_slots(blocks(i)));
  }
  dead_of[strip][threadIdx.x] = dead;
  __syncthreads();
  if (!valid) return;
  uint32_t before = 0;
  for (uint32_t i = 0; i < strip; ++i) before += dead_of[i][threadIdx.x];
  if (strip == kStrips - 1 && before + dead < order.open_count) {
    *p.refused_call = p.call;
    p.faults.Raise({.kind = FaultKind::kTooFewDeadSlots,
                    .sequence = order.sequence,
                    .thought = static_cast<uint32_t>(order.thought),
                    .layer = lane / p.pool.kv_heads,
                    .kv_head = lane % p.pool.kv_heads,
                    .found = before + dead,
                    .needed = order.open_count});
  }
  uint32_t token = before;
  for (uint32_t i = first; i < end && token < order.open_count; ++i) {
    const LaneBlock block = blocks(i);
    for (uint32_t slots = dead_slots(block); slots != 0 && token < order.open_count;
         slots &= slots - 1) {
      places[token++] = PlaceInPool(block, static_cast<uint32_t>(__ffs(slots) - 1));
    }
  }
}

// Marks lie lane beside lane in a page, so a warp looks at 32 lanes of one page at a time, or of
// one round. Threads (lane, strip).
__global__ void __launch_bounds__(kLanesPerCta* kStrips)
    PlaceTokensKernel(const __grid_constant__ SealParams p) {
  __shared__ uint32_t dead_of[kStrips][kLanesPerCta];
  const uint32_t lanes = p.pool.layers * p.pool.kv_heads;
  const uint32_t ctas = (lanes + kLanesPerCta - 1) / kLanesPerCta;  // an order's
  const uint32_t order_index = blockIdx.x / ctas;
  const uint32_t index = blockIdx.x % ctas * kLanesPerCta + threadIdx.x;
  const bool valid = index < lanes;
  const uint32_t lane = min(index, lanes - 1);
  const SealEntry order = p.orders[order_index];
  const PageEntry* entries = p.entries + order.first_page;
  uint64_t* places = p.places + (size_t{order_index} * lanes + lane) * kGroupTokens;
  if (order.table == kNoTable) {
    const EvenBlocks blocks{entries, lane};
    PlaceTokens(p, order, lane, valid, blocks, order.page_count, dead_of, places);
  } else {
    const UnevenBlocks blocks(p.pool, entries, {p.tables + order.table}, lane);
    PlaceTokens(p, order, lane, valid, blocks, blocks.count(), dead_of, places);
  }
}

// Writes one block of 16 channels. `data` and `scales` are those of slot 0.
template <int kDim>
__device__ void WriteBlock(Format format, const RawBlock& raw, uint32_t slot, uint32_t block,
                           uint8_t* data, uint8_t* scales) {
  constexpr uint32_t kBlocks = kDim / kChannelsPerScale;
  const uint32_t at = slot * kBlocks + block;
  float x[kChannelsPerScale];
  ToFloats(raw, x);
  switch (format) {
    case Format::kBf16:  // the open group holds what bf16 pages hold
      reinterpret_cast<uint4*>(data)[2 * at] = raw.words[0];
      reinterpret_cast<uint4*>(data)[2 * at + 1] = raw.words[1];
      return;
    case Format::kFp8:
      reinterpret_cast<uint4*>(data)[at] = EncodeFp8(x, scales + at);
      return;
    case Format::kNvfp4:
      reinterpret_cast<uint2*>(data)[at] = EncodeNvfp4(x, scales + at);
      return;
    case Format::kTernary:
      reinterpret_cast<uint32_t*>(data)[at] = EncodeTernary(x, scales + at);
      return;
    case Format::kInt4:
      reinterpret_cast<uint2*>(data)[at] = EncodeInt4(x, scales + at);
      return;
  }
}

// Where a SealParams::places says.
struct SlotAt {
  uint8_t* page = nullptr;
  uint32_t block = 0;  // the lane's index in an even sequence
  uint32_t slot = 0;

  __device__ __forceinline__ SlotAt(const SealParams& p, uint64_t place)
      : page(p.pool.pages +
             place % (uint64_t{1} << kBlockPlaceBit) / kSlotsPerPage * kSlotsPerPage),
        block(static_cast<uint32_t>(place >> kBlockPlaceBit)),
        slot(static_cast<uint32_t>(place % kSlotsPerPage)) {}

  __device__ uint32_t index() const { return block * kSlotsPerPage + slot; }
};

// Makes the slots of all tokens that went into token `first`'s block, whose mask that is, live.
// REQUIRES: it is the first of them; tokens of a block follow one another.
__device__ void MarkLive(const uint64_t* places, uint32_t first, uint32_t count, uint16_t* mask) {
  const uint64_t block = places[first] / kSlotsPerPage;
  uint32_t live = 0;
  for (uint32_t i = first; i < count && places[i] / kSlotsPerPage == block; ++i) {
    live |= 1u << (places[i] % kSlotsPerPage);
  }
  *mask = static_cast<uint16_t>(*mask | live);
}

// Adds the magnitudes of block `index`, as it was stored, to `sum`, channel by channel.
template <Format kFormat>
__device__ float AddMagnitudes(const uint8_t* data, const uint8_t* scales, uint32_t index,
                               float sum) {
  constexpr float kFactor = PowerOfTwo(FactorExponent<kFormat>());
  KeyBlock<kFormat> block;
  block.Load(data, scales, index);
  block.PrepareScale();
#pragma unroll
  for (int i = 0; i < kChannelsPerScale / 2; ++i) {
    const uint32_t pair = block.Pair(i);
    sum = __fadd_rn(sum, fabsf(__uint_as_float(pair << 16)) * kFactor);
    sum = __fadd_rn(sum, fabsf(__uint_as_float(pair & 0xffff0000u)) * kFactor);
  }
  return sum;
}

// The L1 norm of a token's V, of which neighbouring threads have just written a block each: in
// channel order from thread to thread, because the bytes must be the CPU's. In the last of them.
template <int kDim>
__device__ float ValueNorm(Format format, const uint8_t* data, const uint8_t* scales, uint32_t slot,
                           uint32_t block) {
  constexpr uint32_t kBlocks = kDim / kChannelsPerScale;
  const uint32_t mask = ((1u << kBlocks) - 1) << (threadIdx.x % 32 / kBlocks * kBlocks);
  float norm = 0.0f;
  for (uint32_t turn = 0; turn < kBlocks; ++turn) {
    if (turn == block) {
      norm = WithFormat(format, [&]<Format kFormat>() {
        return AddMagnitudes<kFormat>(data, scales, slot * kBlocks + block, norm);
      });
    }
    const float so_far = __shfl_sync(mask, norm, turn, kBlocks);
    if (turn < block) norm = so_far;
  }
  return norm;
}

// A CTA is a lane of an order; a thread one block of 16 channels of one token's K or V, in the
// order in which they lie in the open group. What costs time is waiting for three loads, each of
// which says where the next is; so registers are held down to 40 for three quarters of all warps.
template <int kDim>
__global__ void __launch_bounds__(2 * kDim, 768 / kDim)
    WriteSlotsKernel(const __grid_constant__ SealParams p) {
  constexpr uint32_t kBlocks = kDim / kChannelsPerScale;
  static_assert(2 * kDim == 2 * kGroupTokens * kBlocks);
  const uint32_t lanes = p.pool.layers * p.pool.kv_heads;
  const SealEntry order = p.orders[blockIdx.x / lanes];
  const uint32_t lane = blockIdx.x % lanes;
  const uint32_t block = threadIdx.x % kBlocks;
  const uint32_t token = threadIdx.x / kBlocks % kGroupTokens;
  const bool is_value = threadIdx.x >= kGroupTokens * kBlocks;
  if (*p.refused_call == p.call || token >= order.open_count) return;

  const auto* open = reinterpret_cast<const uint4*>(p.pool.OpenLane(order.open_group, lane));
  const RawBlock raw = {open[2 * threadIdx.x], open[2 * threadIdx.x + 1]};

  const uint64_t* places = p.places + size_t{blockIdx.x} * kGroupTokens;
  const DeviceLayout& layout = p.layouts.of[order.format_pair];
  const SlotAt to(p, places[token]);
  uint8_t* bytes = to.page + size_t{to.block} * layout.lane_bytes;
  if (is_value) {
    const Format format = FormatsOf(order.format_pair).v;
    uint8_t* data = bytes + layout.v_data_offset;
    uint8_t* scales = bytes + layout.v_scales_offset;
    WriteBlock<kDim>(format, raw, to.slot, block, data, scales);
    if (order.slot_score == SlotScore::kValueNorm) {
      const float norm = ValueNorm<kDim>(format, data, scales, to.slot, block);
      if (block + 1 == kBlocks) {
        reinterpret_cast<float*>(to.page + layout.scores_offset)[to.index()] = norm;
      }
    }
  } else {
    WriteBlock<kDim>(FormatsOf(order.format_pair).k, raw, to.slot, block, bytes,
                     bytes + layout.k_scales_offset);
  }
  if (is_value || block != 0) return;
  const uint64_t place = places[token];
  const SlotAt slot(p, place);  // anew: one thread in 16 gets here, and has had no room to keep it
  if (order.slot_score == SlotScore::kAttentionReceived) {
    reinterpret_cast<float*>(slot.page + layout.scores_offset)[slot.index()] =
        p.pool.OpenScores(order.open_group, lane)[token];
  }
  reinterpret_cast<uint32_t*>(slot.page + layout.positions_offset)[slot.index()] =
      order.open_position + token;
  if (token == 0 || places[token - 1] / kSlotsPerPage != place / kSlotsPerPage) {
    auto* mask = reinterpret_cast<uint16_t*>(slot.page + layout.masks_offset) + slot.block;
    MarkLive(places, token, order.open_count, mask);
  }
}

}  // namespace

cudaError_t LaunchSeal(const SealParams& params, cudaStream_t stream) {
  if (params.order_count == 0) return cudaSuccess;
  const auto lanes = static_cast<uint32_t>(params.pool.layers * params.pool.kv_heads);
  const uint32_t place_ctas = params.order_count * ((lanes + kLanesPerCta - 1) / kLanesPerCta);
  PlaceTokensKernel<<<place_ctas, dim3(kLanesPerCta, kStrips), 0, stream>>>(params);
  const uint32_t ctas = params.order_count * lanes;
  if (params.pool.head_dim == 64) {
    WriteSlotsKernel<64><<<ctas, 2 * 64, 0, stream>>>(params);
  } else {
    WriteSlotsKernel<128><<<ctas, 2 * 128, 0, stream>>>(params);
  }
  return cudaGetLastError();
}

}  // namespace palimpsest::cuda
