// SPDX-License-Identifier: Apache-2.0
// Anticipated queries, second and third launch: the denominators of their softmax over the live
// keys of a class.
//
// A sum of exp2(logit) needs no maximum as long as it stays within fp32's range: logits up to 83
// (in base e) above and 68 below. A block that leaves it is done again with a maximum for every 16
// keys.
#pragma once

#include "kernels/cuda/anticipated_launch.cuh"
#include "kernels/cuda/launch_order.cuh"

namespace palimpsest::cuda::anneal {

// A sum outside has overflowed, or terms were lost that count.
inline constexpr float kSumMin = 0x1p-98f;
inline constexpr float kSumMax = 0x1p120f;

template <int kDim>
struct SumMemory {
  ColumnStages<kDim> stages;
  float sums[kTileStages][kBlockWarps][kTileColumns];  // of each warp's rows
};

// The columns that this thread's sum of `PartialSums` is of: 8j + 2t and one more, for j of 2.
struct OwnColumns {
  uint32_t first;
  __device__ explicit OwnColumns(uint32_t lane) {
    const uint32_t g = lane / 4, t = lane % 4;
    // Bits of g say which half, quarter, eighth of the tile.
    first = (g >> 2) * 64 + (g >> 1 & 1) * 32 + (g & 1) * 16 + 2 * t;
  }
};

// One step of the sum below: of 2 kHalf columns each thread keeps those its bit says.
template <int kHalf>
__device__ __forceinline__ void ScatterStep(float (&x)[32], uint32_t lane, uint32_t bit) {
  const bool upper = (lane & bit) != 0;
#pragma unroll
  for (int i = 0; i < kHalf; ++i) {
    const float sent = upper ? x[i] : x[i + kHalf];
    const float kept = upper ? x[i + kHalf] : x[i];
    x[i] = kept + __shfl_xor_sync(~0u, sent, bit);
  }
}

// Sums x over the 8 rows of threads (g, t), g < 8: 32 columns of each t to 4 in each thread.
__device__ __forceinline__ void ScatterSums(float (&x)[32], uint32_t lane) {
  ScatterStep<16>(x, lane, 16);
  ScatterStep<8>(x, lane, 8);
  ScatterStep<4>(x, lane, 4);
}

// Sums over the warp's rows, of which `live` says which count (rows g and g + 8), to sums[128].
__device__ __forceinline__ void PartialSums(const float (&logits)[16][4], const float (&live)[2],
                                            uint32_t lane, float* sums) {
  float x[32];
#pragma unroll
  for (int j = 0; j < 16; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      x[2 * j + i] = fmaf(Exp2(logits[j][2 + i]), live[1], Exp2(logits[j][i]) * live[0]);
    }
  }
  ScatterSums(x, lane);
  const uint32_t first = OwnColumns(lane).first;
  *reinterpret_cast<float2*>(sums + first) = make_float2(x[0], x[1]);
  *reinterpret_cast<float2*>(sums + first + 8) = make_float2(x[2], x[3]);
}

// The same in logarithms, whatever the logits are: log2 of the sum, -infinity where none counts.
__device__ __forceinline__ void CarefulSums(const float (&logits)[16][4], const float (&live)[2],
                                            uint32_t lane, float* sums) {
#pragma unroll
  for (int j = 0; j < 16; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float low = live[0] != 0.0f ? logits[j][i] : -INFINITY;
      const float high = live[1] != 0.0f ? logits[j][2 + i] : -INFINITY;
      float max = fmaxf(low, high);
      for (uint32_t d = 4; d < 32; d *= 2) max = fmaxf(max, __shfl_xor_sync(~0u, max, d));
      const float base = max == -INFINITY ? 0.0f : max;
      float sum = Exp2(low - base) + Exp2(high - base);
      for (uint32_t d = 4; d < 32; d *= 2) sum += __shfl_xor_sync(~0u, sum, d);
      if (lane < 4) sums[8 * j + 2 * lane + i] = base + __log2f(sum);
    }
  }
}

// log2 of the sum of exp2 over x[0], x[stride], ... `count` of them.
__device__ __forceinline__ float LogSum(const float* x, uint32_t count, size_t stride) {
  float max = -INFINITY;
  for (uint32_t i = 0; i < count; ++i) max = fmaxf(max, x[i * stride]);
  if (max == -INFINITY) return max;
  float sum = 0.0f;
  for (uint32_t i = 0; i < count; ++i) sum += Exp2(x[i * stride] - max);
  return max + __log2f(sum);
}

// Adds up what the CTA's warps have left of one tile, by one warp, and writes the logarithms. True
// where a sum was out of range.
template <bool kCareful>
__device__ bool CombineWarps(const float (&sums)[kBlockWarps][kTileColumns], uint32_t warps,
                             uint32_t lane, float* to) {
  if constexpr (kCareful) {
    for (uint32_t c = lane; c < kTileColumns; c += 32) {
      to[c] = LogSum(&sums[0][c], warps, kTileColumns);
    }
    return false;
  } else {
    float4 sum = {};
    for (uint32_t w = 0; w < warps; ++w) {
      const float4 of = *reinterpret_cast<const float4*>(&sums[w][4 * lane]);
      sum = {sum.x + of.x, sum.y + of.y, sum.z + of.z, sum.w + of.w};
    }
    const float least = fminf(fminf(sum.x, sum.y), fminf(sum.z, sum.w));
    const float largest = fmaxf(fmaxf(sum.x, sum.y), fmaxf(sum.z, sum.w));
    reinterpret_cast<float4*>(to)[lane] = {__log2f(sum.x), __log2f(sum.y), __log2f(sum.z),
                                           __log2f(sum.w)};
    return !(least >= kSumMin && largest <= kSumMax);
  }
}

// The block's sums for all queries. True, in some thread, where one was out of range.
template <int kDim, bool kCareful>
__device__ bool SumBlock(const AnticipatedLaunch& launch, const LaneBlock& at,
                         const RowOperand<kDim>& keys, SumMemory<kDim>* memory,
                         ColumnStream<kDim, false>* queries) {
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t room = launch.codebook.queries_room, tiles = room / kTileColumns;
  const uint8_t* book = launch.codebook.books + at.lane.lane * BookBytes(room, kDim);
  const auto source = [&](uint32_t i) {
    return TileSource{.tile = book + i * BookBytes(kTileColumns, kDim)};
  };
  float* to = launch.sums + (size_t{at.lane.index} * launch.blocks + at.block) * room;
  bool out_of_range = false;
  const auto combine = [&](uint32_t tile, uint32_t stage) {
    out_of_range |=
        CombineWarps<kCareful>(memory->sums[stage], at.warps, lane, to + tile * kTileColumns);
  };
  const uint32_t mask = at.row < at.lane.slots() ? at.lane.page(at.row / kSlotsPerPage).live() : 0;
  const float live[2] = {static_cast<float>(mask >> lane / 4 & 1),
                         static_cast<float>(mask >> (lane / 4 + 8) & 1)};
  queries->Begin(tiles, source);
  for (uint32_t i = 0; i < tiles; ++i) {
    queries->Advance(source, [&](uint32_t tile) {
      combine(tile, (queries->stage() + kTileStages - 2) % kTileStages);
    });
    float logits[16][4];
    MultiplyTile<kDim>(keys, queries->Next(), logits);
    float* sums = memory->sums[queries->stage()][warp];
    if constexpr (kCareful) {
      CarefulSums(logits, live, lane, sums);
    } else {
      PartialSums(logits, live, lane, sums);
    }
    queries->Release();
  }
  __syncthreads();
  // What nobody came to reuse: the last two tiles.
  for (uint32_t i = tiles - min(tiles, 2u); i < tiles; ++i) {
    const uint32_t stage = (queries->stage() + kTileStages - (tiles - i)) % kTileStages;
    if (warp == i % at.warps) combine(i, stage);
  }
  return out_of_range;
}

// Grid: (blocks, lanes).
template <int kDim>
__global__ void __launch_bounds__(kBlockThreads, 1)
    SumKernel(const __grid_constant__ AnticipatedLaunch launch) {
  extern __shared__ __align__(128) uint8_t shared[];
  auto* memory = reinterpret_cast<SumMemory<kDim>*>(shared);
  const LaneBlock at(launch);
  if (threadIdx.x == 0) ColumnStream<kDim, false>::Init(&memory->stages, at.warps);
  __syncthreads();
  WaitForPredecessor();
  if (!at.mine()) return;
  RowOperand<kDim> keys;
  keys.Load(launch.keys + size_t{blockIdx.y} * BookBytes(launch.rows, kDim), at.row,
            threadIdx.x % 32);
  ColumnStream<kDim, false> queries(&memory->stages, at.warps);
  const bool bad = SumBlock<kDim, false>(launch, at, keys, memory, &queries);
  if (!__syncthreads_or(bad)) return;
  SumBlock<kDim, true>(launch, at, keys, memory, &queries);
}

inline constexpr uint32_t kCombineThreads = 128;

// Adds up a lane's blocks. Grid: (tiles of 128 queries, lanes).
__global__ void __launch_bounds__(kCombineThreads)
    CombineSumsKernel(const __grid_constant__ AnticipatedLaunch launch) {
  const ScoredLane lane(launch.lanes, blockIdx.y);
  const uint32_t query = blockIdx.x * kCombineThreads + threadIdx.x;
  const uint32_t room = launch.codebook.queries_room;
  AllowSuccessor();
  WaitForPredecessor();
  const float* sums = launch.sums + size_t{blockIdx.y} * launch.blocks * room + query;
  const uint32_t blocks = (lane.slots() + kBlockRows - 1) / kBlockRows;
  launch.log_sums[size_t{blockIdx.y} * room + query] =
      query < launch.codebook.queries ? LogSum(sums, blocks, room) : INFINITY;
}

}  // namespace palimpsest::cuda::anneal
