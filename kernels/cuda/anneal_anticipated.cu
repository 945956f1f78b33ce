// SPDX-License-Identifier: Apache-2.0
// Scores by anticipated queries (kernels/query_codebook.h), for many lanes at once: five launches.
//
//   live       which slots hold tokens
//   gather     pages -> books of bf16; keys turned back to position 0
//   outputs    attention of the codebook over the lane's tokens
//   removal    by how much outputs would move without a token, the largest over queries
//   select     the best stay (anneal_select_launch.h)
//
// Work of a lane with n tokens and Q queries (of all heads of its group): 8 n Q D operations by
// tensor cores, half of them for the outputs. An 8B model with C = 256 queries a head and n =
// 1,120: 1.17 GFLOP, 301 GFLOP a sequence; nothing of [tokens][queries] goes to memory. Bytes of a
// lane: its tokens once from pages, 4 n D to books, from there (the L2 cache) Q / 256 times and
// once more; the codebook, which all sequences share, and the outputs, 2 Q D each, n / 192 times.
#include <cmath>
#include <numbers>

#include "kernels/cuda/anticipated_outputs.cuh"
#include "kernels/cuda/anticipated_removal.cuh"
#include "kernels/cuda/anticipated_tokens.cuh"
#include "kernels/cuda/scored_launch.cuh"

namespace palimpsest::cuda::anneal {
namespace {

struct Anticipated {
  using Launch = AnticipatedLaunch;

  static Launch Make(const AnnealParams& params, const ScoredLanes& lanes) {
    return {.lanes = lanes,
            .codebook = params.codebook,
            .rotate_keys = params.rotate_keys,
            .scale = params.codebook.attention_factor * std::numbers::log2e_v<float> /
                     std::sqrt(static_cast<float>(params.pool.head_dim))};
  }

  static ScratchPlan Place(const AnnealParams& params, ScratchPlan plan, Launch* launch) {
    const auto dim = static_cast<uint32_t>(params.pool.head_dim);
    const uint64_t room = params.codebook.queries_room;
    plan.Take(1, &launch->counts);
    plan.Take(launch->rows, &launch->slots);
    plan.Take(BookBytes(launch->rows, dim), &launch->keys);
    plan.Take(BookBytes(launch->rows, dim), &launch->values);
    plan.Take(launch->rows, &launch->value_squares);
    plan.Take(BookBytes(room, dim), &launch->outputs);
    plan.Take(room, &launch->minus_log_sums);
    plan.Take(room, &launch->minus_half_squares);
    plan.Take(launch->rows, &launch->scores);
    return plan;
  }

  template <int kDim>
  static cudaError_t Score(const Launch& launch, cudaStream_t stream) {
    const uint32_t lanes = launch.lanes.lane_count;
    cudaError_t error = LaunchEarly(FindLiveKernel, lanes, kFindLiveThreads, 0, launch, stream);
    if (error != cudaSuccess) return error;
    const uint32_t groups = (launch.rows + kGatherRows - 1) / kGatherRows;
    error = LaunchEarly(GatherTokensKernel<kDim>, dim3(groups, lanes), kGatherThreads, 0, launch,
                        stream);
    if (error != cudaSuccess) return error;
    const uint32_t query_blocks = (launch.codebook.queries_room + kOutputRows - 1) / kOutputRows;
    error = LaunchLarge(OutputsKernel<kDim>, dim3(query_blocks, lanes), kOutputThreads,
                        sizeof(OutputMemory<kDim>), launch, stream);
    if (error != cudaSuccess) return error;
    const uint32_t token_blocks = (launch.rows + kRemovalRows - 1) / kRemovalRows;
    return LaunchLarge(RemovalKernel<kDim>, dim3(token_blocks, lanes), kRemovalThreads,
                       sizeof(typename QueryStream<kDim>::Stages), launch, stream);
  }
};

}  // namespace

uint64_t AnticipatedScratchBytes(const AnnealParams& params, uint32_t slots) {
  return ScratchBytesOfLane<Anticipated>(params, slots);
}

cudaError_t LaunchAnticipated(const AnnealParams& params, const AnnealTask* tasks, uint32_t count,
                              float* scores, cudaStream_t stream) {
  return LaunchScored<Anticipated>(params, tasks, count, scores, stream);
}

}  // namespace palimpsest::cuda::anneal
