// SPDX-License-Identifier: Apache-2.0
// Anticipated queries, fourth launch: by how much the output of any of them would move, were a
// token not there. With its weight p, the query's output o and the token's value v that is exactly
//
//   p / (1 - p) |v - o|,     |v - o|^2 = |v|^2 - 2 v . o + |o|^2
//
// A CTA has 192 tokens, 64 a warpgroup, keys and values in registers; queries stream past, with
// their outputs. The squares of what is above are compared: one exponential a pair.
#pragma once

#include "kernels/cuda/anticipated_launch.cuh"
#include "kernels/cuda/book_products.cuh"
#include "kernels/cuda/launch_order.cuh"

namespace palimpsest::cuda::anneal {

inline constexpr uint32_t kRemovalWarps = 12;
inline constexpr uint32_t kRemovalThreads = kRemovalWarps * 32;
inline constexpr uint32_t kRemovalRows = kRemovalWarps * 16;
inline constexpr float kRestMin = 1e-3f;    // what 1 - p counts at least
inline constexpr float kSeriesLogMax = -4;  // log2 of the largest p whose p / (1 - p) is a series

// Queries with log2 of their denominators, outputs with their squares.
template <int kDim>
using QueryStream = TileStream<kDim, 2, 2>;

// p / (1 - p), p = 2^log. The series is good to 2^-16, and cheaper than a division.
template <bool kSeries>
__device__ __forceinline__ float WeightOverRest(float log) {
  const float p = Exp2(log);
  if constexpr (kSeries) return fmaf(p * p, fmaf(p, p + 1.0f, 1.0f), p);
  return __fdividef(p, fmaxf(1.0f - p, kRestMin));
}

// Raises largest[h], the square of the largest error so far for rows g + 8h, by 64 queries.
template <bool kSeries>
__device__ __forceinline__ void RaiseErrors(const float (&logits)[8][4],
                                            const float (&products)[8][4],
                                            const float (&value_squares)[2], const float* log_sums,
                                            const float* output_squares, float (&largest)[2]) {
  const uint32_t column = threadIdx.x % 4 * 2;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float2 log_sum = *reinterpret_cast<const float2*>(log_sums + 8 * j + column);
    const float2 square = *reinterpret_cast<const float2*>(output_squares + 8 * j + column);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float log = logits[j][i] - (i % 2 == 0 ? log_sum.x : log_sum.y);
      const float squares = value_squares[i / 2] + (i % 2 == 0 ? square.x : square.y);
      const float distance = fmaf(products[j][i], -2.0f, squares);
      const float weight = WeightOverRest<kSeries>(log);
      largest[i / 2] = fmaxf(largest[i / 2], weight * weight * distance);
    }
  }
}

// Is any p of these too large for the series?
__device__ __forceinline__ bool AnyLarge(const float (&logits)[8][4], const float* log_sums) {
  const uint32_t column = threadIdx.x % 4 * 2;
  bool large = false;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float2 log_sum = *reinterpret_cast<const float2*>(log_sums + 8 * j + column);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      large |= logits[j][i] - (i % 2 == 0 ? log_sum.x : log_sum.y) > kSeriesLogMax;
    }
  }
  return __any_sync(~0u, large);
}

// Grid: (blocks of 192 tokens, lanes).
template <int kDim>
__global__ void __launch_bounds__(kRemovalThreads, 1)
    RemovalKernel(const __grid_constant__ AnticipatedLaunch launch) {
  extern __shared__ __align__(128) uint8_t shared[];
  auto* stages = reinterpret_cast<typename QueryStream<kDim>::Stages*>(shared);
  WaitForPredecessor();
  const uint32_t count = launch.counts[blockIdx.y], begin = blockIdx.x * kRemovalRows;
  if (begin >= count) return;
  const uint32_t warps =
      min((count - begin + kTileRows - 1) / kTileRows * (kTileRows / 16), kRemovalWarps);
  if (threadIdx.x == 0) QueryStream<kDim>::Init(stages, warps);
  __syncthreads();
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp >= warps) return;

  const ScoredLane of(launch.lanes, blockIdx.y);
  const uint32_t room = launch.codebook.queries_room, tiles = room / kTileRows;
  const uint64_t first_query = uint64_t{blockIdx.y} * room;
  const uint8_t* book = launch.codebook.books + BookBytes(uint64_t{of.lane} * room, kDim);
  const uint8_t* outputs = launch.outputs + BookBytes(first_query, kDim);
  const auto source = [&](uint32_t i) {
    const uint64_t at = BookBytes(i * kTileRows, kDim), query = first_query + i * kTileRows;
    return typename QueryStream<kDim>::Source{
        .tiles = {book + at, outputs + at},
        .numbers = {launch.log_sums + query, launch.output_squares + query}};
  };
  QueryStream<kDim> queries(stages, warps);
  queries.Begin(tiles, source);

  const uint64_t base = uint64_t{blockIdx.y} * launch.rows;
  const uint32_t row = begin + warp * 16;
  RowOperand<kDim> keys, values;
  keys.Load(launch.keys + BookBytes(base, kDim), row, lane);
  values.Load(launch.values + BookBytes(base, kDim), row, lane);
  float value_squares[2], largest[2] = {};
#pragma unroll
  for (int h = 0; h < 2; ++h)
    value_squares[h] = launch.value_squares[base + row + lane / 4 + 8 * h];

  for (uint32_t i = 0; i < tiles; ++i) {
    const auto& tile = queries.Next(source);
    float logits[8][4], products[8][4];
    BeginProducts();
    StartProducts<kDim>(keys, tile.rows[0], logits);
    StartProducts<kDim>(values, tile.rows[1], products);
    EndProducts();
    UseProducts(logits);
    UseProducts(products);
    if (AnyLarge(logits, tile.numbers[0])) {
      RaiseErrors<false>(logits, products, value_squares, tile.numbers[0], tile.numbers[1],
                         largest);
    } else {
      RaiseErrors<true>(logits, products, value_squares, tile.numbers[0], tile.numbers[1], largest);
    }
    queries.Release();
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    for (uint32_t d = 1; d < 4; d *= 2) {
      largest[h] = fmaxf(largest[h], __shfl_xor_sync(~0u, largest[h], d));
    }
    const uint32_t token = row + lane / 4 + 8 * h;
    if (lane % 4 == 0 && token < count) {
      launch.scores[base + launch.slots[base + token]] = sqrtf(largest[h]);
    }
  }
}

}  // namespace palimpsest::cuda::anneal
