// SPDX-License-Identifier: Apache-2.0
// Scores by anticipated queries (kernels/query_codebook.h), for many lanes at once: five launches.
//
//   keys       pages -> books of bf16, turned back to position 0
//   sums       keys . queries, exp2, sum over keys        \  both by tensor cores; nothing of
//   combine    blocks of keys -> log2 of denominators     /  [keys][queries] goes to memory
//   largest    keys . queries - log2 of denominators, maximum over queries
//   select     the best stay (anneal_select.h)
//
// Work of a lane with n slots and Q queries (of all heads of its group): 4 n Q D operations. An 8B
// model with C = 256 queries a head and n = 1,056: 0.55 GFLOP, 142 GFLOP a sequence. exp2 is needed
// in one of the passes only: there the special function units are as busy as the tensor cores.
// Bytes of a lane: its keys once from pages, 2 n D to the book, twice back; the codebook from L2,
// which all sequences share: 2 Q D for every 256 keys and pass.
#include <cmath>
#include <numbers>

#include "kernels/cuda/anneal_select_launch.h"
#include "kernels/cuda/anticipated_keys.cuh"
#include "kernels/cuda/anticipated_sums.cuh"

namespace palimpsest::cuda::anneal {
namespace {

// Fourth launch. Grid: (blocks, lanes).
template <int kDim>
__global__ void __launch_bounds__(kBlockThreads, 1)
    LargestKernel(const __grid_constant__ AnticipatedLaunch launch) {
  extern __shared__ __align__(128) uint8_t shared[];
  auto* stages = reinterpret_cast<ColumnStages<kDim>*>(shared);
  const LaneBlock at(launch);
  if (threadIdx.x == 0) ColumnStream<kDim, true>::Init(stages, at.warps);
  __syncthreads();
  WaitForPredecessor();
  if (!at.mine()) return;
  const uint32_t lane = threadIdx.x % 32;
  RowOperand<kDim> keys;
  keys.Load(launch.keys + size_t{blockIdx.y} * BookBytes(launch.rows, kDim), at.row, lane);
  const uint32_t room = launch.codebook.queries_room, tiles = room / kTileColumns;
  const uint8_t* book = launch.codebook.books + at.lane.lane * BookBytes(room, kDim);
  const float* log_sums = launch.log_sums + size_t{blockIdx.y} * room;
  const auto source = [&](uint32_t i) {
    return TileSource{.tile = book + i * BookBytes(kTileColumns, kDim),
                      .numbers = log_sums + i * kTileColumns};
  };
  ColumnStream<kDim, true> queries(stages, at.warps);
  queries.Begin(tiles, source);
  float largest[2] = {-INFINITY, -INFINITY};
  for (uint32_t i = 0; i < tiles; ++i) {
    queries.Advance(source);
    float logits[16][4];
    MultiplyTile<kDim>(keys, queries.Next(), logits);
    const float* of = queries.numbers() + 2 * (lane % 4);
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      const float2 sums = *reinterpret_cast<const float2*>(of + 8 * j);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        largest[h] = fmaxf(largest[h], logits[j][2 * h] - sums.x);
        largest[h] = fmaxf(largest[h], logits[j][2 * h + 1] - sums.y);
      }
    }
    queries.Release();
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    for (uint32_t d = 1; d < 4; d *= 2) {
      largest[h] = fmaxf(largest[h], __shfl_xor_sync(~0u, largest[h], d));
    }
    const uint32_t row = at.row + lane / 4 + 8 * h;
    if (lane % 4 == 0) launch.scores[size_t{blockIdx.y} * launch.rows + row] = largest[h];
  }
}

// The scratch of a launch over so many lanes.
ScratchPlan PlaceScratch(const AnnealParams& params, uint32_t slots, ScratchPlan plan,
                         AnticipatedLaunch* launch) {
  const uint64_t room = params.codebook.queries_room;
  launch->rows = (slots + kGroupRows - 1) / kGroupRows * kGroupRows;
  launch->blocks = (slots + kBlockRows - 1) / kBlockRows;
  plan.Take(BookBytes(launch->rows, params.pool.head_dim), &launch->keys);
  plan.Take(launch->blocks * room, &launch->sums);
  plan.Take(room, &launch->log_sums);
  plan.Take(launch->rows, &launch->scores);
  return plan;
}

template <typename Launch>
cudaError_t LaunchGrid(void (*kernel)(Launch), dim3 grid, uint32_t threads, uint32_t shared_bytes,
                       const Launch& launch, cudaStream_t stream) {
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  if (error != cudaSuccess) return error;
  return LaunchEarly(kernel, grid, threads, shared_bytes, launch, stream);
}

template <int kDim>
cudaError_t ScoreAndSelect(const AnticipatedLaunch& launch, cudaStream_t stream) {
  const uint32_t lanes = launch.lanes.lane_count;
  const uint32_t tiles = launch.codebook.queries_room / kTileColumns;
  const dim3 blocks(launch.blocks, lanes);
  cudaError_t error = LaunchGrid(TurnKeysKernel<kDim>, dim3(launch.rows / kGroupRows, lanes),
                                 kGatherThreads, 0, launch, stream);
  if (error != cudaSuccess) return error;
  error =
      LaunchGrid(SumKernel<kDim>, blocks, kBlockThreads, sizeof(SumMemory<kDim>), launch, stream);
  if (error != cudaSuccess) return error;
  error = LaunchGrid(CombineSumsKernel, dim3(tiles, lanes), kCombineThreads, 0, launch, stream);
  if (error != cudaSuccess) return error;
  error = LaunchGrid(LargestKernel<kDim>, blocks, kBlockThreads, sizeof(ColumnStages<kDim>), launch,
                     stream);
  if (error != cudaSuccess) return error;
  return LaunchSelectKernel(
      {.lanes = launch.lanes, .scores = launch.scores, .slots_max = launch.rows}, stream);
}

}  // namespace

uint64_t AnticipatedScratchBytes(const AnnealParams& params, uint32_t slots) {
  AnticipatedLaunch launch{.lanes = ScoredLanes(params, nullptr, 0)};
  return PlaceScratch(params, slots, ScratchPlan(nullptr, 0), &launch).bytes_of_lane();
}

cudaError_t LaunchAnticipated(const AnnealParams& params, const AnnealTask* tasks, uint32_t count,
                              cudaStream_t stream) {
  uint32_t slots = 0;
  for (uint32_t i = 0; i < count; ++i) slots = std::max(slots, tasks[i].page_count * kSlotsPerPage);
  if (slots == 0) return cudaSuccess;  // empty classes
  const uint64_t bytes = AnticipatedScratchBytes(params, slots);
  return ForLanes(params, tasks, count, bytes, [&](const ScoredLanes& lanes, ScratchPlan plan) {
    AnticipatedLaunch launch{.lanes = lanes,
                             .codebook = params.codebook,
                             .rotate_keys = params.rotate_keys,
                             .scale = params.codebook.attention_factor *
                                      std::numbers::log2e_v<float> /
                                      std::sqrt(static_cast<float>(params.pool.head_dim))};
    PlaceScratch(params, slots, plan, &launch);
    return params.pool.head_dim == 64 ? ScoreAndSelect<64>(launch, stream)
                                      : ScoreAndSelect<128>(launch, stream);
  });
}

}  // namespace palimpsest::cuda::anneal
