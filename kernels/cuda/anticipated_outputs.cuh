// SPDX-License-Identifier: Apache-2.0
// Anticipated queries, third launch: what each query of the codebook gets, attention of thousands
// of queries over a lane's tokens.
//
// A CTA has 256 queries, 64 a warpgroup, in shared memory; tokens stream past. A sum of exp2(logit)
// needs no maximum as long as it stays within fp32's range: logits up to 66 (in base e) above and
// 68 below. A CTA that leaves it begins again, with a running maximum.
//
// Outputs are divided by the sum of the weights as rounded to bf16 for their products: where a
// token has nearly all of a query's attention, p -> 1, a removal error is a small difference of
// value and output, and a share of 2^-9 that one weight has too much would be 2^-9 / (1 - p) of it.
#pragma once

#include "kernels/cuda/anticipated_launch.cuh"
#include "kernels/cuda/book_products.cuh"
#include "kernels/cuda/launch_order.cuh"

namespace palimpsest::cuda::anneal {

inline constexpr uint32_t kOutputWarps = 16;
inline constexpr uint32_t kOutputThreads = kOutputWarps * 32;
inline constexpr uint32_t kOutputRows = kOutputWarps * 16;
// A sum of weights outside may have lost terms that count, or be about to overflow.
inline constexpr float kWeightsMin = 0x1p-98f;
inline constexpr float kWeightsMax = 0x1p96f;

// Keys and values.
template <int kDim>
using TokenStream = TileStream<kDim, 2, 0>;

template <int kDim>
struct OutputMemory {
  typename TokenStream<kDim>::Stages stages;
  alignas(128) uint8_t queries[BookBytes(kOutputRows, kDim)];
  uint64_t queries_here;
};

// What a warp's 16 queries have got so far: rows g and g + 8 are this thread's.
template <int kDim>
struct OutputState {
  float sums[kDim / 8][4] = {};           // of values times rounded weights, as products lie
  float rounded[2] = {};                  // these weights added up, this thread's columns only
  float weights[2] = {};                  // the same before they are rounded
  float max[2] = {-INFINITY, -INFINITY};  // what logits are relative to, if there is a maximum
};

__device__ __forceinline__ float LowOf(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float HighOf(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

// Logits of 64 tokens to weights, as operand A for their values.
template <bool kCareful, int kDim>
__device__ __forceinline__ void Weigh(float (&logits)[8][4], OutputState<kDim>* state,
                                      uint32_t (&weights)[4][4]) {
  if constexpr (kCareful) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float max = state->max[h];
#pragma unroll
      for (int j = 0; j < 8; ++j) max = fmaxf(max, fmaxf(logits[j][2 * h], logits[j][2 * h + 1]));
      for (uint32_t d = 1; d < 4; d *= 2) max = fmaxf(max, __shfl_xor_sync(~0u, max, d));
      const float factor = Exp2(state->max[h] - max);
      state->max[h] = max;
      state->weights[h] *= factor;
      state->rounded[h] *= factor;
#pragma unroll
      for (int j = 0; j < kDim / 8; ++j) {
        state->sums[j][2 * h] *= factor;
        state->sums[j][2 * h + 1] *= factor;
      }
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        logits[j][2 * h] -= max;
        logits[j][2 * h + 1] -= max;
      }
    }
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float low = Exp2(logits[j][2 * h]), high = Exp2(logits[j][2 * h + 1]);
      state->weights[h] += low + high;
      const uint32_t pair = PackBf16(low, high);
      state->rounded[h] += LowOf(pair) + HighOf(pair);
      weights[j / 2][j % 2 * 2 + h] = pair;
    }
  }
}

// Weights of tokens from `first` on. `count`: the lane's, behind which there are zeros.
template <bool kCareful, int kDim>
__device__ __forceinline__ void WeighTile(uint32_t first, uint32_t count, float (&logits)[8][4],
                                          OutputState<kDim>* state, uint32_t (&weights)[4][4]) {
  if (first + kTileRows > count) {
#pragma unroll
    for (uint32_t j = 0; j < 8; ++j) {
#pragma unroll
      for (uint32_t k = 0; k < 4; ++k) {
        const uint32_t token = first + 8 * j + threadIdx.x % 4 * 2 + k % 2;
        if (token >= count) logits[j][k] = -INFINITY;
      }
    }
  }
  Weigh<kCareful>(logits, state, weights);
}

// Streams the lane's tokens past the warp's queries. While a warpgroup waits for its products and
// makes weights of them, the others' are under way.
template <bool kCareful, int kDim>
__device__ __forceinline__ void AttendToTokens(const AnticipatedLaunch& launch, uint32_t lane_index,
                                               const uint8_t* queries, TokenStream<kDim>* tokens,
                                               OutputState<kDim>* state) {
  const uint32_t count = launch.counts[lane_index], tiles = (count + kTileRows - 1) / kTileRows;
  const uint64_t base = uint64_t{lane_index} * launch.rows;
  const uint8_t* keys = launch.keys + BookBytes(base, kDim);
  const uint8_t* values = launch.values + BookBytes(base, kDim);
  const auto source = [&](uint32_t i) {
    const uint64_t at = BookBytes(i * kTileRows, kDim);
    return typename TokenStream<kDim>::Source{.tiles = {keys + at, values + at}};
  };
  tokens->Begin(tiles, source);
  for (uint32_t i = 0; i < tiles; ++i) {
    const auto& tile = tokens->Next(source);
    float logits[8][4];
    BeginProducts();
    StartProducts<kDim>(queries, tile.rows[0], logits);
    EndProducts();
    UseProducts(logits);
    uint32_t weights[4][4];
    WeighTile<kCareful>(i * kTileRows, count, logits, state, weights);
    UseProducts(state->sums);
    BeginProducts();
    StartSums<kDim>(weights, tile.rows[1], state->sums);
    EndProducts();
    UseProducts(state->sums);
    tokens->Release();
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    for (uint32_t d = 1; d < 4; d *= 2) {
      state->weights[h] += __shfl_xor_sync(~0u, state->weights[h], d);
      state->rounded[h] += __shfl_xor_sync(~0u, state->rounded[h], d);
    }
  }
}

// Writes what the warp's queries got. `row`: the first of them. Those behind the codebook's get
// weights that make them count for nothing.
template <int kDim>
__device__ void WriteOutputs(const AnticipatedLaunch& launch, uint32_t lane_index, uint32_t row,
                             const OutputState<kDim>& state) {
  const uint32_t lane = threadIdx.x % 32;
  const uint64_t base = uint64_t{lane_index} * launch.codebook.queries_room;
  auto* book = reinterpret_cast<uint32_t*>(launch.outputs + BookBytes(base + row, kDim)) + lane;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float inverse = 1.0f / state.rounded[h];
    float square = 0.0f;
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j) {
      const uint32_t pair =
          PackBf16(state.sums[j][2 * h] * inverse, state.sums[j][2 * h + 1] * inverse);
      book[(h * (kDim / 8) + j) * (kMatrixBytes / 4)] = pair;
      square = fmaf(LowOf(pair), LowOf(pair), fmaf(HighOf(pair), HighOf(pair), square));
    }
    for (uint32_t d = 1; d < 4; d *= 2) square += __shfl_xor_sync(~0u, square, d);
    const uint32_t query = row + lane / 4 + 8 * h;
    if (lane % 4 != 0) continue;
    const float max = state.max[h] == -INFINITY ? 0.0f : state.max[h];
    launch.minus_log_sums[base + query] =
        query < launch.codebook.queries ? -max - log2f(state.weights[h]) : -INFINITY;
    launch.minus_half_squares[base + query] = -0.5f * square;
  }
}

// Grid: (blocks of 256 queries, lanes).
template <int kDim>
__global__ void __launch_bounds__(kOutputThreads, 1)
    OutputsKernel(const __grid_constant__ AnticipatedLaunch launch) {
  extern __shared__ __align__(128) uint8_t shared[];
  auto* memory = reinterpret_cast<OutputMemory<kDim>*>(shared);
  const uint32_t begin = blockIdx.x * kOutputRows, warp = threadIdx.x / 32;
  const uint32_t rows = min(launch.codebook.queries_room - begin, kOutputRows);
  const uint32_t warps = rows / 16;
  if (threadIdx.x == 0) {
    TokenStream<kDim>::Init(&memory->stages, warps);
    InitBarrier(&memory->queries_here);
    FenceBarriers();
  }
  __syncthreads();
  if (warp == 0) {
    const ScoredLane lane(launch.lanes, blockIdx.y);
    const uint64_t first = uint64_t{lane.lane} * launch.codebook.queries_room + begin;
    CopyAsync({{memory->queries, launch.codebook.books + BookBytes(first, kDim),
                static_cast<uint32_t>(BookBytes(rows, kDim))}},
              &memory->queries_here, threadIdx.x % 32);
  }
  WaitForPredecessor();
  WaitBarrier(&memory->queries_here, 0);
  if (warp >= warps || launch.counts[blockIdx.y] == 0) return;
  const uint8_t* queries = memory->queries + BookBytes(warp / 4 * kTileRows, kDim);
  TokenStream<kDim> tokens(&memory->stages, warps);
  OutputState<kDim> state;
  AttendToTokens<false>(launch, blockIdx.y, queries, &tokens, &state);
  const bool good = state.weights[0] >= kWeightsMin && state.weights[0] <= kWeightsMax &&
                    state.weights[1] >= kWeightsMin && state.weights[1] <= kWeightsMax;
  if (__syncthreads_or(!good)) {
    state = {};
    AttendToTokens<true>(launch, blockIdx.y, queries, &tokens, &state);
  }
  WriteOutputs(launch, blockIdx.y, begin + warp * 16, state);
}

}  // namespace palimpsest::cuda::anneal
