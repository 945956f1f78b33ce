// SPDX-License-Identifier: Apache-2.0
// Anticipated queries, fourth launch: by how much the output of any of them would move, were a
// token not there. With its weight p, the query's output o and the token's value v that is exactly
//
//   p / (1 - p) |v - o|,     |v - o|^2 = |v|^2 - 2 v . o + |o|^2
//
// A CTA has 192 tokens, 64 a warpgroup, keys and values in registers; queries stream past, with
// their outputs. The squares of what is above are compared: one exponential a pair. What is added
// to all products of a query, their sums begin with: it costs nothing.
#pragma once

#include "kernels/cuda/anticipated_launch.cuh"
#include "kernels/cuda/book_products.cuh"
#include "kernels/cuda/launch_order.cuh"

namespace palimpsest::cuda::anneal {

inline constexpr uint32_t kRemovalWarps = 12;
inline constexpr uint32_t kRemovalThreads = kRemovalWarps * 32;
inline constexpr uint32_t kRemovalRows = kRemovalWarps * 16;
inline constexpr float kRestMin = 1e-3f;        // what 1 - p counts at least
inline constexpr float kSeriesMax = 1.0f / 16;  // the largest p whose p / (1 - p) is a series

// Queries with minus log2 of their denominators, outputs with minus half their squares.
template <int kDim>
using QueryStream = TileStream<kDim, 2, 2>;

// d[j][i] = numbers[column of it]: what products are added to.
__device__ __forceinline__ void BeginWith(const float* numbers, float (&d)[8][4]) {
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float2 of = *reinterpret_cast<const float2*>(numbers + 8 * j + threadIdx.x % 4 * 2);
    d[j][0] = d[j][2] = of.x;
    d[j][1] = d[j][3] = of.y;
  }
}

// p to p / (1 - p). The series is good to 2^-12, and cheaper than a division.
template <bool kSeries>
__device__ __forceinline__ void DivideByRest(float (&weights)[8][4]) {
#pragma unroll
  for (auto& of : weights) {
#pragma unroll
    for (float& p : of) {
      p = kSeries ? fmaf(fmaf(p, p, p), p, p) : __fdividef(p, fmaxf(1.0f - p, kRestMin));
    }
  }
}

// log2(p) to p / (1 - p).
__device__ __forceinline__ void ToWeights(float (&logs)[8][4]) {
  bool large = false;
#pragma unroll
  for (auto& of : logs) {
#pragma unroll
    for (float& x : of) {
      x = Exp2(x);
      large |= x > kSeriesMax;
    }
  }
  if (__any_sync(~0u, large)) {
    DivideByRest<false>(logs);
  } else {
    DivideByRest<true>(logs);
  }
}

// Raises largest[h], the square of the largest error so far for rows g + 8h, by 64 queries.
// products: v . o - |o|^2 / 2.
__device__ __forceinline__ void RaiseErrors(const float (&weights)[8][4],
                                            const float (&products)[8][4],
                                            const float (&value_squares)[2], float (&largest)[2]) {
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float distance = fmaf(products[j][i], -2.0f, value_squares[i / 2]);
      largest[i / 2] = fmaxf(largest[i / 2], weights[j][i] * weights[j][i] * distance);
    }
  }
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
        .numbers = {launch.minus_log_sums + query, launch.minus_half_squares + query}};
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
    float weights[8][4], products[8][4];
    BeginWith(tile.numbers[0], weights);
    BeginWith(tile.numbers[1], products);
    UseProducts(weights);
    UseProducts(products);
    BeginProducts();
    StartProducts<kDim>(keys, tile.rows[0], weights, true);
    CommitProducts();
    StartProducts<kDim>(values, tile.rows[1], products, true);
    CommitProducts();
    AwaitProducts<1>();
    UseProducts(weights);
    ToWeights(weights);
    AwaitProducts();
    UseProducts(products);
    RaiseErrors(weights, products, value_squares, largest);
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
