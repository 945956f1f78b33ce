// SPDX-License-Identifier: Apache-2.0
// Joint score, third launch: what takes products of keys.
//
//   totals   column sums of the matrix of cosines are k_j . sum of all k_i: they need no matrix
//   logits   of the newest queries
//   newest   for each token the newest that is similar: tiles of the matrix from the newest column
//            on, until all rows of the CTA have found theirs. Nothing of it goes to memory.
//
// A CTA has 256 tokens, whose keys stay in registers; cosines are products of the keys as stored,
// exact in bf16, times inverse norms in fp32.
#pragma once

#include "kernels/cuda/joint_keys.cuh"
#include "kernels/cuda/joint_launch.cuh"
#include "kernels/cuda/launch_order.cuh"

namespace palimpsest::cuda::anneal {

inline constexpr uint32_t kSimilarWarps = 16;
inline constexpr uint32_t kSimilarThreads = kSimilarWarps * 32;
inline constexpr uint32_t kSimilarRows = kSimilarWarps * 16;
inline constexpr float kSimilar = 0.5f;  // cosines above are

// Keys with their inverse norms.
template <int kDim>
using KeyStream = TileStream<kDim, 1, 1>;

template <int kDim>
struct SimilarMemory {
  typename KeyStream<kDim>::Stages stages;
  alignas(128) uint8_t queries[BookBytes(kTileRows, kDim)];
  float sum[kDim];       // of all normalised keys
  uint32_t groups_left;  // of four warps, that have rows without a similar token so far
};

// True in all threads of a warpgroup if it is in each.
__device__ __forceinline__ bool AllOfGroup(bool x) {
  uint32_t all;
  asm volatile(
      "{\n.reg .pred p, q;\nsetp.ne.u32 p, %1, 0;\n"
      "bar.red.and.pred q, %2, 128, p;\nselp.u32 %0, 1, 0, q;\n}"
      : "=r"(all)
      : "r"(static_cast<uint32_t>(x)), "r"(1 + threadIdx.x / 128)
      : "memory");
  return all != 0;
}

// A warp's 16 tokens: rows g and g + 8 are this thread's.
template <int kDim>
struct SimilarRows {
  uint32_t first = 0;
  RowOperand<kDim> keys;
  float inverse_norm[2] = {};

  __device__ uint32_t row(int half) const { return first + threadIdx.x % 32 / 4 + 8 * half; }
};

template <int kDim>
__device__ void WriteTotals(const JointLaunch& launch, size_t base, const SimilarRows<kDim>& rows,
                            const float* sum) {
  const uint32_t t = threadIdx.x % 4;
  float total[2] = {};
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 by = *reinterpret_cast<const float2*>(sum + 16 * step + i / 2 * 8 + 2 * t);
      const uint32_t pair = rows.keys.a[step][i];
      total[i % 2] = fmaf(__uint_as_float(pair << 16), by.x, total[i % 2]);
      total[i % 2] = fmaf(__uint_as_float(pair & 0xffff0000u), by.y, total[i % 2]);
    }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    for (uint32_t d = 1; d < 4; d *= 2) total[h] += __shfl_xor_sync(~0u, total[h], d);
    if (t == 0) launch.totals[base + rows.row(h)] = total[h] * rows.inverse_norm[h];
  }
}

// A lane's newest queries as 64 columns at a time: head after head, `room` for each, which is the
// window rounded up to a power of two from 8 on.
struct QueryColumns {
  const JointLaunch& launch;
  const ScoredLane& lane;
  const uint32_t heads;
  const uint32_t room;

  __device__ QueryColumns(const JointLaunch& l, const ScoredLane& of)
      : launch(l),
        lane(of),
        heads(l.lanes.pool.query_heads / l.lanes.pool.kv_heads),
        room(l.queries.window <= 8    ? 8
             : l.queries.window <= 16 ? 16
                                      : 32) {}

  __device__ uint32_t count() const { return heads * room; }
  // Columns [first, first + 64) as rows of a book, zeros where there is no query. For the CTA.
  template <int kDim>
  __device__ void Load(uint32_t first, uint8_t* book) const {
    const DevicePool& pool = launch.lanes.pool;
    const uint32_t window = launch.queries.window;
    const size_t head0 =
        (size_t{lane.task.open_group} * pool.layers + lane.layer()) * pool.query_heads +
        lane.kv_head() * heads;
    for (uint32_t i = threadIdx.x; i < kTileRows * (kDim / 8); i += blockDim.x) {
      const uint32_t column = i / (kDim / 8), channel = i % (kDim / 8) * 8;
      const uint32_t head = (first + column) / room, w = (first + column) % room;
      uint4 piece = {};
      if (head < heads && w < window) {
        piece = *reinterpret_cast<const uint4*>(
            launch.queries.queries + (((head0 + head) * window + w) * kDim + channel) * 2);
      }
      *reinterpret_cast<uint4*>(book + PieceOffset(column, channel, kDim)) = piece;
    }
  }
};

// What is written to shared memory is seen by the tensor cores' copies.
__device__ __forceinline__ void FenceSharedForTensorCores() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// For the CTA; those without rows help to load.
template <int kDim>
__device__ void WriteLogits(const JointLaunch& launch, const ScoredLane& lane, bool has_rows,
                            const SimilarRows<kDim>& rows, uint8_t* book) {
  const QueryColumns columns(launch, lane);
  const uint32_t eights = columns.room / 8;  // of columns, a head: 1, 2 or 4
  float largest[4][4];
#pragma unroll
  for (int i = 0; i < 16; ++i) largest[i / 4][i % 4] = -INFINITY;
  for (uint32_t first = 0; first < columns.count(); first += kTileRows) {
    __syncthreads();
    columns.Load<kDim>(first, book);
    FenceSharedForTensorCores();
    __syncthreads();
    if (!has_rows) continue;
    float products[8][4];
    BeginProducts();
    StartProducts<kDim>(rows.keys, book, products);
    EndProducts();
    UseProducts(products);
#pragma unroll
    for (uint32_t j = 0; j < 8; ++j) {
      if (first + 8 * j >= columns.count()) continue;
#pragma unroll
      for (uint32_t eight = 0; eight < 4; ++eight) {
        const bool here = eight == (j & (eights - 1));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          largest[eight][i] = fmaxf(largest[eight][i], here ? products[j][i] : -INFINITY);
        }
      }
    }
  }
  if (!has_rows) return;
  const uint32_t window = launch.queries.window;
  float* to = launch.logits + size_t{lane.index} * window * launch.rows;
#pragma unroll
  for (uint32_t eight = 0; eight < 4; ++eight) {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t w = 8 * eight + threadIdx.x % 4 * 2 + i % 2;
      if (w < window) to[w * launch.rows + rows.row(i / 2)] = largest[eight][i] * launch.scale;
    }
  }
}

// The newest similar column of a tile for this thread's rows, among all columns of the warp's
// threads: rarely called.
struct Similar {
  uint32_t column = kNone;
  float cosine = 0.0f;
};
__device__ __forceinline__ Similar FindInTile(const float (&products)[8][4], int half,
                                              const float* inverse_norms, float inverse_norm) {
  const uint32_t t = threadIdx.x % 4;
  Similar found;
#pragma unroll
  for (uint32_t j = 0; j < 8; ++j) {
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t column = 8 * j + 2 * t + i;
      const float cosine = products[j][2 * half + i] * inverse_norms[column] * inverse_norm;
      if (cosine > kSimilar) found = {column, cosine};
    }
  }
  for (uint32_t d = 1; d < 4; d *= 2) {
    const Similar other = {__shfl_xor_sync(~0u, found.column, d),
                           __shfl_xor_sync(~0u, found.cosine, d)};
    // kNone + 1 is 0.
    if (other.column + 1 > found.column + 1) found = other;
  }
  return found;
}

// What a thread's two rows have found so far.
struct NewestOfRows {
  Similar newest[2];
  bool found[2] = {};

  // Products of the rows with a tile of columns, `first` being the tile's first.
  template <int kDim>
  __device__ void LookAt(float (&products)[8][4], uint32_t first, const float* inverse_norms,
                         const SimilarRows<kDim>& rows) {
    const uint32_t t = threadIdx.x % 4;
    if (rows.first / kTileRows * kTileRows == first) {  // a token is not its own double
#pragma unroll
      for (uint32_t j = 0; j < 8; ++j) {
#pragma unroll
        for (uint32_t k = 0; k < 4; ++k) {
          const uint32_t column = first + 8 * j + 2 * t + k % 2;
          if (column == rows.row(static_cast<int>(k / 2))) products[j][k] = 0.0f;
        }
      }
    }
    float largest[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (uint32_t j = 0; j < 8; ++j) {
      const float2 by = *reinterpret_cast<const float2*>(inverse_norms + 8 * j + 2 * t);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        largest[h] = fmaxf(largest[h], products[j][2 * h] * by.x);
        largest[h] = fmaxf(largest[h], products[j][2 * h + 1] * by.y);
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      // A little less than the test, which is FindInTile's.
      const bool maybe = !found[h] && largest[h] * rows.inverse_norm[h] > 0.9999f * kSimilar;
      if (!__any_sync(~0u, maybe)) continue;
      const Similar here = FindInTile(products, h, inverse_norms, rows.inverse_norm[h]);
      if (!found[h] && here.column != kNone) {
        newest[h] = {first + here.column, here.cosine};
        found[h] = true;
      }
    }
  }
};

// Streams the lane's keys past its rows, newest first.
template <int kDim>
__device__ void FindNewest(const JointLaunch& launch, const ScoredLane& lane, uint32_t warps,
                           const SimilarRows<kDim>& rows, SimilarMemory<kDim>* memory) {
  const size_t base = size_t{lane.index} * launch.rows;
  const uint32_t count = launch.counts[lane.index];
  const uint32_t tiles = (count + kTileRows - 1) / kTileRows;
  const uint8_t* book = launch.keys + lane.index * BookBytes(launch.rows, kDim);
  using Source = typename KeyStream<kDim>::Source;
  const auto source = [&](uint32_t i) {
    if (*static_cast<volatile uint32_t*>(&memory->groups_left) == 0) return Source{};
    const uint32_t tile = tiles - 1 - i;
    return Source{.tiles = {book + tile * BookBytes(kTileRows, kDim)},
                  .numbers = {launch.inverse_norms + base + tile * kTileRows}};
  };
  NewestOfRows so_far;
  for (int h = 0; h < 2; ++h) so_far.found[h] = rows.row(h) >= count;  // those need nothing
  bool all_found = false;
  KeyStream<kDim> columns(&memory->stages, warps);
  columns.Begin(tiles, source);
  for (uint32_t i = 0; i < tiles; ++i) {
    const auto& tile = columns.Next(source);
    if (!all_found) {
      float products[8][4];
      BeginProducts();
      StartProducts<kDim>(rows.keys, tile.rows[0], products);
      EndProducts();
      UseProducts(products);
      so_far.LookAt(products, (tiles - 1 - i) * kTileRows, tile.numbers[0], rows);
      all_found = AllOfGroup(so_far.found[0] && so_far.found[1]);
      if (all_found && threadIdx.x % 128 == 0) atomicSub(&memory->groups_left, 1);
    }
    columns.Release();
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (threadIdx.x % 4 != 0) continue;
    launch.newest[base + rows.row(h)] = so_far.newest[h].column;
    launch.links[base + rows.row(h)] = so_far.newest[h].cosine;
  }
}

// Grid: (blocks of 256 tokens, lanes).
template <int kDim>
__global__ void __launch_bounds__(kSimilarThreads, 1)
    SimilarKernel(const __grid_constant__ JointLaunch launch) {
  extern __shared__ __align__(128) uint8_t shared[];
  auto* memory = reinterpret_cast<SimilarMemory<kDim>*>(shared);
  WaitForPredecessor();
  const uint32_t count = launch.counts[blockIdx.y], begin = blockIdx.x * kSimilarRows;
  if (begin >= count) return;
  const ScoredLane lane(launch.lanes, blockIdx.y);
  const size_t base = size_t{blockIdx.y} * launch.rows;
  const uint32_t warps = min((count - begin + 63) / 64 * 4, kSimilarWarps);
  const bool has_rows = threadIdx.x / 32 < warps;
  if (threadIdx.x == 0) {
    KeyStream<kDim>::Init(&memory->stages, warps);
    memory->groups_left = warps / 4;
  }
  if (threadIdx.x < kDim) {
    float sum = 0.0f;
    for (uint32_t i = 0; i < (count + kTileRows - 1) / kTileRows; ++i) {
      sum += launch.sums[(base / kTileRows + i) * kDim + threadIdx.x];
    }
    memory->sum[threadIdx.x] = sum;
  }
  SimilarRows<kDim> rows;
  rows.first = begin + threadIdx.x / 32 * 16;
  if (has_rows) {
    rows.keys.Load(launch.keys + blockIdx.y * BookBytes(launch.rows, kDim), rows.first,
                   threadIdx.x % 32);
    for (int h = 0; h < 2; ++h) {
      rows.inverse_norm[h] = launch.inverse_norms[base + rows.row(h)];
    }
  }
  WriteLogits<kDim>(launch, lane, has_rows, rows, memory->queries);  // the CTA meets in it
  if (!has_rows) return;
  WriteTotals<kDim>(launch, base, rows, memory->sum);
  FindNewest<kDim>(launch, lane, warps, rows, memory);
}

}  // namespace palimpsest::cuda::anneal
