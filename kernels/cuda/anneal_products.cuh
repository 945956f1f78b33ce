// SPDX-License-Identifier: Apache-2.0
// K-means, second launch: the inner products of all pairs of a segment's keys.
//
// A centroid is a mean of keys, so its distance from any key follows from the keys' distances among
// themselves, and these from their inner products: once these are known, no Lloyd step looks at a
// key again. They are computed on fp64 tensor cores straight from the quantised bytes. Keys are
// exact in bf16, so products are exact and their sums nearly always: equal distances come out
// equal, near ties fall as in exact arithmetic.
//
// The lower triangle is cut into tiles of 16 x 32 tokens, one a CTA; its warps share the channels.
// Multiplications of a segment of 128 tokens, 1,024 channels wide: 10.5 M, 20 tiles, where ten
// Lloyd steps over 64 centroids would take 84 M.
#pragma once

#include "kernels/cuda/anneal_launch.cuh"
#include "kernels/cuda/launch_order.cuh"

namespace palimpsest::cuda::anneal {

inline constexpr uint32_t kTileRows = 16;
inline constexpr uint32_t kTileColumns = 32;
inline constexpr uint32_t kUnit = 8;  // tokens on either side of a matrix instruction
inline constexpr uint32_t kProductWarps = 4;

// The first tokens of a tile.
struct TokenTile {
  uint32_t row = 0;
  uint32_t column = 0;
};

// Tiles that touch the lower triangle, rows before columns: row blocks 2i and 2i + 1 have i + 1.
__device__ inline TokenTile TileAt(uint32_t index) {
  auto i = static_cast<uint32_t>((sqrtf(4.0f * static_cast<float>(index) + 1.0f) - 1.0f) / 2.0f);
  while (i * (i + 1) > index) --i;
  while ((i + 1) * (i + 2) <= index) ++i;
  const uint32_t rest = index - i * (i + 1);
  return {(2 * i + rest / (i + 1)) * kTileRows, rest % (i + 1) * kTileColumns};
}
__host__ __device__ constexpr uint32_t ProductTiles(uint32_t tokens) {
  const uint32_t pairs = (tokens + kTileColumns - 1) / kTileColumns;  // of row blocks
  return pairs * (pairs + 1);
}

// A warp's share of a tile of kRows x kColumns units: with g = lane / 4 and t = lane % 4,
// sums[r][c] are row 8r + g, columns 8c + 2t and + 1.
template <int kRows, int kColumns>
struct TileSums {
  double sums[kRows][kColumns][2] = {};

  // f(row of the tile, column, sum)
  template <typename F>
  __device__ void ForEach(F&& f) const {
    const uint32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        f(kUnit * r + g, kUnit * c + 2 * t, sums[r][c][0]);
        f(kUnit * r + g, kUnit * c + 2 * t + 1, sums[r][c][1]);
      }
    }
  }
};

// D += A · B, 16 x 4 by 4 x 8: lane (g, t) gives rows g and g + 8, column t of A and row t, column
// g of B; d is (g, 2t), (g, 2t + 1), and the same of row g + 8.
__device__ __forceinline__ void MultiplyAddDouble(double (&low)[2], double (&high)[2], double a_low,
                                                  double a_high, double b) {
#if __CUDA_ARCH__ >= 900  // two instructions of 8 rows run at half the pace there
  asm("mma.sync.aligned.m16n8k4.row.col.f64.f64.f64.f64 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
      "{%0, %1, %2, %3};"
      : "+d"(low[0]), "+d"(low[1]), "+d"(high[0]), "+d"(high[1])
      : "d"(a_low), "d"(a_high), "d"(b));
#else
  asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
      : "+d"(low[0]), "+d"(low[1])
      : "d"(a_low), "d"(b));
  asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
      : "+d"(high[0]), "+d"(high[1])
      : "d"(a_high), "d"(b));
#endif
}

// Heads [first, end) of a problem.
struct HeadRange {
  uint32_t first = 0;
  uint32_t end = 0;
};

// Adds the products over every `stride`-th 64 channels of the heads, from `start`. Thread (g, t)
// reads block t of these 64 of its tokens g, g + 8 ...; both sides name the channels in the same
// order, whichever it is. Keys are taken times 2^-FactorExponent: distances among them compare
// the same.
template <Format kFormat, int kRows, int kColumns>
__device__ __forceinline__ void AddProducts(const Problem& problem, HeadRange heads, TokenTile tile,
                                            uint32_t start, uint32_t stride,
                                            TileSums<kRows, kColumns>* out) {
  constexpr int kTokens = kRows + kColumns;
  const uint32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const AnnealLaunch& launch = problem.launch;
  const DeviceLayout& layout = launch.layouts.of[problem.format_pair()];
  const uint32_t blocks = launch.pool.head_dim / kChannelsPerScale;
  const uint32_t groups = (blocks + 3) / 4;  // of a head
  const uint32_t tokens = problem.count(heads.first);
  for (uint32_t i = start; i < (heads.end - heads.first) * groups; i += stride) {
    const uint32_t head = heads.first + i / groups;
    const uint32_t block = i % groups * 4 + t;
    const SlotPlace* places = problem.places(head);
    const uint8_t* lane = launch.pool.pages + size_t{problem.lane(head)} * layout.lane_bytes;
    KeyBlock<kFormat> keys[kTokens];
#pragma unroll
    for (int k = 0; k < kTokens; ++k) {
      const uint32_t token =
          (k < kRows ? tile.row + kUnit * k : tile.column + kUnit * (k - kRows)) + g;
      if (token >= tokens || block >= blocks) continue;
      const SlotPlace place = places[token];
      const auto slot = static_cast<uint32_t>(place % kSlotsPerPage);
      const uint8_t* data = lane + (place - slot);
      keys[k].Load(data, data + layout.k_scales_offset, slot * blocks + block);
    }
#pragma unroll
    for (KeyBlock<kFormat>& key : keys) key.PrepareScale();
#pragma unroll
    for (int pair = 0; pair < kChannelsPerScale / 2; ++pair) {
      uint32_t channels[kTokens];
#pragma unroll
      for (int k = 0; k < kTokens; ++k) channels[k] = keys[k].Pair(pair);
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        double x[kTokens];
#pragma unroll
        for (int k = 0; k < kTokens; ++k) {
          x[k] = __uint_as_float(odd ? channels[k] & 0xffff0000u : channels[k] << 16);
        }
#pragma unroll
        for (int r = 0; r < kRows; r += 2) {
#pragma unroll
          for (int c = 0; c < kColumns; ++c) {
            MultiplyAddDouble(out->sums[r][c], out->sums[r + 1][c], x[r], x[r + 1], x[kRows + c]);
          }
        }
      }
    }
  }
}

template <int kRows, int kColumns>
__device__ __forceinline__ void AddProducts(const Problem& problem, HeadRange heads, TokenTile tile,
                                            uint32_t start, uint32_t stride,
                                            TileSums<kRows, kColumns>* out) {
  WithFormat(FormatsOf(problem.format_pair()).k, [&]<Format kFormat>() {
    AddProducts<kFormat>(problem, heads, tile, start, stride, out);
  });
}

// A CTA a tile of a problem. Heads that do not agree are left to the next
// launch.
__global__ void __launch_bounds__(kProductWarps * 32, 5)
    ProductsKernel(const __grid_constant__ AnnealLaunch launch) {
  __shared__ double parts[kProductWarps][kTileRows * kTileColumns];
  AllowSuccessor();
  WaitForPredecessor();
  const Problem problem(launch, blockIdx.x / launch.product_tiles);
  const uint32_t tokens = problem.count(0);
  const TokenTile tile = TileAt(blockIdx.x % launch.product_tiles);
  if (tokens <= problem.task.keep || tile.row >= tokens || !problem.HeadsAgree()) return;
  const uint32_t warp = threadIdx.x / 32;
  TileSums<kTileRows / kUnit, kTileColumns / kUnit> sums;
  AddProducts(problem, {0, problem.kv_heads()}, tile, warp, kProductWarps, &sums);
  sums.ForEach([&](uint32_t row, uint32_t column, double sum) {
    parts[warp][row * kTileColumns + column] = sum;
  });
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < kTileRows * kTileColumns; i += kProductWarps * 32) {
    const uint32_t row = tile.row + i / kTileColumns, column = tile.column + i % kTileColumns;
    if (row >= tokens || column > row) continue;
    double sum = parts[0][i];
    for (uint32_t w = 1; w < kProductWarps; ++w) sum += parts[w][i];
    problem.products()[size_t{row} * launch.tokens_max + column] = sum;
  }
}

}  // namespace palimpsest::cuda::anneal
