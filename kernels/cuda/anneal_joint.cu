// SPDX-License-Identifier: Apache-2.0
// R-KV's joint score (kernels/backend.h, Selector::kJointScore), for many lanes at once: five
// launches.
//
//   order     tokens by position
//   keys      pages -> books of bf16, norms, sums of normalised keys
//   similar   products: of keys with keys (joint_similar.cuh) and with the newest queries
//   score     softmaxes, pooling, what is forgiven
//   select    the best stay (anneal_select_launch.h)
//
// Work of a lane of n tokens: at most 2 n^2 D operations by tensor cores, for an 8B model with
// 1,152 tokens 0.34 GFLOP, 87 GFLOP a sequence; less where tokens find something similar among the
// newest. Bytes of a lane: its keys once from pages, 2 n D to the book; from there (the L2 cache,
// as a rule) once for the rows and up to n / 256 times for the columns.
#include <cmath>
#include <numbers>

#include "kernels/cuda/cta_reduce.cuh"
#include "kernels/cuda/joint_keys.cuh"
#include "kernels/cuda/joint_similar.cuh"
#include "kernels/cuda/scored_launch.cuh"

namespace palimpsest::cuda::anneal {
namespace {

constexpr uint32_t kScoreThreads = 256;
constexpr uint32_t kScoreWarps = kScoreThreads / 32;
constexpr uint32_t kWindowMax = 32;
constexpr float kImportanceWeight = 0.1f;
constexpr uint32_t kPoolReach = 3;
constexpr float kForgivenUnit = 0x1p-40f;  // so that their sum does not depend on the order

// One lane in the fourth launch.
struct Scoring {
  const JointLaunch& launch;
  const ScoredLane lane;
  const size_t base;
  const uint32_t tokens;
  const uint32_t candidates;  // all but the newest, which stay anyway

  __device__ explicit Scoring(const JointLaunch& l)
      : launch(l),
        lane(l.lanes, blockIdx.x),
        base(size_t{blockIdx.x} * l.rows),
        tokens(l.counts[blockIdx.x]),
        candidates(tokens - min(lane.task.recent, tokens)) {}

  // Calls f(i) for i < count, spread over the CTA.
  template <typename F>
  static __device__ void ForEach(uint32_t count, F&& f) {
    for (uint32_t i = threadIdx.x; i < count; i += kScoreThreads) f(i);
  }

  // The mean over queries of their softmax over candidates. Complete after the CTA has met.
  __device__ void FindImportance() const {
    __shared__ float largest[kWindowMax], factor[kWindowMax];
    const uint32_t window = launch.queries.window;
    const uint32_t kept = min(window, lane.task.next_position);
    const float* logits = launch.logits + size_t{blockIdx.x} * window * launch.rows;
    for (uint32_t w = threadIdx.x / 32; w < kept; w += kScoreWarps) {
      const float* of = logits + size_t{w} * launch.rows;
      float max = -INFINITY, sum = 0.0f;
      for (uint32_t i = threadIdx.x % 32; i < candidates; i += 32) max = fmaxf(max, of[i]);
      max = ReduceWarp(max, Largest());
      for (uint32_t i = threadIdx.x % 32; i < candidates; i += 32) sum += Exp2(of[i] - max);
      sum = ReduceWarp(sum, Sum());
      if (threadIdx.x % 32 == 0) {
        largest[w] = max;
        factor[w] = 1.0f / (sum * static_cast<float>(kept));
      }
    }
    __syncthreads();
    ForEach(candidates, [&](uint32_t i) {
      float mean = 0.0f;
      for (uint32_t w = 0; w < kept; ++w) {
        mean += Exp2(logits[size_t{w} * launch.rows + i] - largest[w]) * factor[w];
      }
      launch.importance[base + i] = mean;
    });
  }

  // Adds up what is forgiven each token. The CTA meets in it.
  __device__ void Forgive() const {
    unsigned long long* forgiven = launch.forgiven + base;
    ForEach(tokens, [&](uint32_t i) { forgiven[i] = 0; });
    __syncthreads();
    ForEach(tokens, [&](uint32_t i) {
      const uint32_t newest = launch.newest[base + i];
      if (newest == kNone) return;
      atomicAdd(forgiven + newest,
                static_cast<unsigned long long>(launch.links[base + i] * (1.0f / kForgivenUnit)));
    });
    __syncthreads();
  }

  // The mean of token j's column, in base 2.
  __device__ float Redundancy(uint32_t j) const {
    const float own = 1.0f - kNormFloor * launch.inverse_norms[base + j];
    const float forgiven = static_cast<float>(__ldcg(launch.forgiven + base + j)) * kForgivenUnit;
    const float sum = launch.totals[base + j] - own * own - forgiven;
    return sum / static_cast<float>(tokens) * std::numbers::log2e_v<float>;
  }
};

// Fourth launch. A CTA a lane.
__global__ void __launch_bounds__(kScoreThreads)
    JointScoreKernel(const __grid_constant__ JointLaunch launch) {
  AllowSuccessor();
  WaitForPredecessor();
  const Scoring of(launch);
  if (of.tokens == 0) return;
  of.FindImportance();
  of.Forgive();
  float max = -INFINITY, sum = 0.0f;
  of.ForEach(of.tokens, [&](uint32_t j) { max = fmaxf(max, of.Redundancy(j)); });
  max = ReduceCta<kScoreWarps>(max, Largest());
  of.ForEach(of.tokens, [&](uint32_t j) { sum += Exp2(of.Redundancy(j) - max); });
  sum = ReduceCta<kScoreWarps>(sum, Sum());
  const float inverse = 1.0f / sum;
  of.ForEach(of.candidates, [&](uint32_t i) {
    float pooled = 0.0f;
    const uint32_t end = min(i + kPoolReach + 1, of.candidates);
    for (uint32_t j = i - min(i, kPoolReach); j < end; ++j) {
      pooled = fmaxf(pooled, launch.importance[of.base + j]);
    }
    launch.scores[of.base + launch.slots[of.base + i]] =
        kImportanceWeight * pooled -
        (1.0f - kImportanceWeight) * Exp2(of.Redundancy(i) - max) * inverse;
  });
}

struct Joint {
  using Launch = JointLaunch;

  static Launch Make(const AnnealParams& params, const ScoredLanes& lanes) {
    return {.lanes = lanes,
            .queries = params.queries,
            .scale =
                std::numbers::log2e_v<float> / std::sqrt(static_cast<float>(params.pool.head_dim))};
  }

  static ScratchPlan Place(const AnnealParams& params, ScratchPlan plan, Launch* launch) {
    const uint32_t rows = launch->rows;
    const auto dim = static_cast<uint32_t>(params.pool.head_dim);
    plan.Take(1, &launch->counts);
    plan.Take(rows, &launch->slots);
    plan.Take(BookBytes(rows, dim), &launch->keys);
    plan.Take(rows, &launch->inverse_norms);
    plan.Take(uint64_t{rows / kTileRows} * dim, &launch->sums);
    plan.Take(rows, &launch->totals);
    plan.Take(uint64_t{rows} * params.queries.window, &launch->logits);
    plan.Take(rows, &launch->newest);
    plan.Take(rows, &launch->links);
    plan.Take(rows, &launch->importance);
    plan.Take(rows, &launch->forgiven);
    plan.Take(rows, &launch->scores);
    return plan;
  }

  template <int kDim>
  static cudaError_t Score(const Launch& launch, cudaStream_t stream) {
    const uint32_t lanes = launch.lanes.lane_count;
    cudaError_t error = LaunchEarly(OrderTokensKernel, lanes, kOrderThreads, 0, launch, stream);
    if (error != cudaSuccess) return error;
    error = LaunchEarly(GatherKeysKernel<kDim>, dim3(launch.rows / kTileRows, lanes),
                        kJointGatherThreads, 0, launch, stream);
    if (error != cudaSuccess) return error;
    const uint32_t blocks = (launch.rows + kSimilarRows - 1) / kSimilarRows;
    error = LaunchLarge(SimilarKernel<kDim>, dim3(blocks, lanes), kSimilarThreads,
                        sizeof(SimilarMemory<kDim>), launch, stream);
    if (error != cudaSuccess) return error;
    return LaunchEarly(JointScoreKernel, lanes, kScoreThreads, 0, launch, stream);
  }
};

}  // namespace

uint64_t JointScratchBytes(const AnnealParams& params, uint32_t slots) {
  return ScratchBytesOfLane<Joint>(params, slots);
}

cudaError_t LaunchJoint(const AnnealParams& params, const AnnealTask* tasks, uint32_t count,
                        float* scores, cudaStream_t stream) {
  return LaunchScored<Joint>(params, tasks, count, scores, stream);
}

}  // namespace palimpsest::cuda::anneal
