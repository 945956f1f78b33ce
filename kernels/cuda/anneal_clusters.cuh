// SPDX-License-Identifier: Apache-2.0
// K-means, third launch's middle: Lloyd's steps and the medoids, as kernels/cpu/kmeans.h defines
// them, on distances alone.
//
// With S the m tokens whose mean a centroid is,
//   |x - centroid|^2 = (sum over i in S of |x - i|^2) / m - (sum over i, j in S of |i - j|^2) /
//   2m^2.
// A row of these for each centroid is kept, and made anew when its tokens change; a centroid that
// has lost its tokens stays where it was. Ties that the definition speaks of are exact: the two
// tokens of a cluster of two are equally near; centroids of equal tokens are equal.
#pragma once

#include <cstdint>

#include "kernels/cuda/anneal_launch.cuh"

namespace palimpsest::cuda::anneal {

inline constexpr uint32_t kClusterThreads = 1024;
inline constexpr uint32_t kClusterWarps = kClusterThreads / 32;
inline constexpr uint32_t kClusterTokensMax = 1536;  // what the small arrays below have room for
inline constexpr int kLloydSteps = 10;
inline constexpr uint32_t kNone = ~uint32_t{0};

// Squared distances of all pairs of tokens. In shared memory a triangle: triangular numbers fall on
// different banks, so a column is as quick as a row. In scratch a square, in place of the products.
template <bool kShared>
struct Squares {
  double* of = nullptr;
  uint32_t stride = 0;

  __device__ double operator()(uint32_t a, uint32_t b) const {
    if constexpr (!kShared) return of[size_t{a} * stride + b];
    const uint32_t row = max(a, b);
    return of[row * (row + 1) / 2 + min(a, b)];
  }
  __device__ void Set(uint32_t row, uint32_t column, double value) const {  // column <= row
    if constexpr (kShared) {
      of[row * (row + 1) / 2 + column] = value;
    } else {
      of[size_t{row} * stride + column] = value;
      of[size_t{column} * stride + row] = value;
    }
  }
};

// What the clusters of one problem take in shared memory. Squares and rows are there where they
// fit, else in scratch. Built alike on the host, from bounds, for the size.
struct ClusterMemory {
  double* squares = nullptr;  // triangle
  double* rows = nullptr;     // [keep][tokens] squared distance of the token from the centroid
  double* norms = nullptr;    // [tokens] squared
  double* best = nullptr;     // [max(tokens, threads)] found by the slices of a step
  uint32_t* best_cluster = nullptr;  // [max(tokens, threads)]
  uint32_t* cluster_of = nullptr;    // [tokens]
  uint32_t* changed = nullptr;       // [keep]
  uint32_t* nearest = nullptr;       // [keep] token
  uint32_t* taken = nullptr;         // [words] bit set of tokens
  uint16_t* members = nullptr;       // [warps][tokens] of the cluster a warp is at
  uint64_t bytes = 0;

  __host__ __device__ ClusterMemory(uint8_t* base, uint32_t tokens, uint32_t keep, bool all) {
    const uint32_t slices = tokens > kClusterThreads ? tokens : kClusterThreads;
    Take(base, all ? size_t{tokens} * (tokens + 1) / 2 : 0, &squares);
    Take(base, all ? size_t{keep} * tokens : 0, &rows);
    Take(base, tokens, &norms);
    Take(base, slices, &best);
    Take(base, slices, &best_cluster);
    Take(base, tokens, &cluster_of);
    Take(base, keep, &changed);
    Take(base, keep, &nearest);
    Take(base, (tokens + 31) / 32, &taken);
    Take(base, size_t{kClusterWarps} * tokens, &members);
  }

 private:
  template <typename T>
  __host__ __device__ void Take(uint8_t* base, size_t count, T** out) {
    *out = reinterpret_cast<T*>(base + bytes);
    bytes += count * sizeof(T);
  }
};

// Doubles in their order.
__device__ __forceinline__ uint64_t OrderedBits(double x) {
  const auto bits = static_cast<uint64_t>(__double_as_longlong(x));
  return bits >> 63 ? ~bits : bits | uint64_t{1} << 63;
}

// All functions are for the whole CTA, unless they say otherwise, and end with a barrier.
template <bool kShared>
class Clusters {
 public:
  __device__ Clusters(const ClusterMemory& memory, const Squares<kShared>& squares, uint32_t tokens,
                      uint32_t keep)
      : m_(memory), squares_(squares), tokens_(tokens), keep_(keep), words_((tokens + 31) / 32) {}

  // Centroid j starts at token floor(j * tokens / keep).
  __device__ void Init() {
    for (uint32_t j = threadIdx.x / 32; j < keep_; j += kClusterWarps) {
      CopyRow(j, j * tokens_ / keep_);
      if (lane() == 0) m_.changed[j] = 0;
    }
    for (uint32_t x = threadIdx.x; x < tokens_; x += kClusterThreads) m_.cluster_of[x] = kNone;
    __syncthreads();
  }

  // Each token joins the nearest centroid. Returns whether any changed its own.
  __device__ bool Assign() {
    // A warp takes 32 tokens and a slice of the centroids; slices are compared afterwards.
    const uint32_t step = min(words_, kClusterWarps);
    const uint32_t slices = kClusterWarps / step;
    const uint32_t slice = threadIdx.x / 32 / step;
    for (uint32_t w = threadIdx.x / 32 % step; w < words_ && slice < slices; w += step) {
      const uint32_t x = 32 * w + lane();
      if (x >= tokens_) continue;
      double best = INFINITY;
      uint32_t cluster = kNone;
#pragma unroll 4
      for (uint32_t j = slice * keep_ / slices; j < (slice + 1) * keep_ / slices; ++j) {
        const double distance = row(j)[x];
        if (distance < best) {
          best = distance;
          cluster = j;
        }
      }
      m_.best[slice * tokens_ + x] = best;
      m_.best_cluster[slice * tokens_ + x] = cluster;
    }
    __syncthreads();
    bool moved = false;
    for (uint32_t x = threadIdx.x; x < tokens_; x += kClusterThreads) {
      uint32_t from = x;
      for (uint32_t s = 1; s < slices; ++s) {
        if (m_.best[s * tokens_ + x] < m_.best[from]) from = s * tokens_ + x;
      }
      const uint32_t before = m_.cluster_of[x], now = m_.best_cluster[from];
      if (now == before) continue;
      moved = true;
      m_.cluster_of[x] = now;
      m_.changed[now] = 1;
      if (before != kNone) m_.changed[before] = 1;
    }
    return __syncthreads_or(moved);
  }

  // Each centroid becomes the mean of its tokens; one without tokens stays. A warp a centroid.
  __device__ void Update() {
    for (uint32_t j = threadIdx.x / 32; j < keep_; j += kClusterWarps) {
      if (m_.changed[j] == 0) continue;
      const uint32_t size = FindMembers(j);
      if (lane() == 0) m_.changed[j] = 0;
      if (size == 0) continue;
      const double spread = size == 1 ? 0.0 : SumRow(j, size);
      if (spread == 0.0) {  // all equal: one stands for all, and no rounding creeps in
        CopyRow(j, members()[0]);
        continue;
      }
      const double each = 1.0 / size, half = 0.5 * spread * each * each;
#pragma unroll 4
      for (uint32_t x = lane(); x < tokens_; x += 32) row(j)[x] = row(j)[x] * each - half;
    }
    __syncthreads();
  }

  // Centroids, in order, take the nearest token not yet taken; afterwards taken(x) tells which.
  __device__ void TakeMedoids() {
    for (uint32_t w = threadIdx.x; w < words_; w += kClusterThreads) m_.taken[w] = 0;
    __syncthreads();
    for (uint32_t j = threadIdx.x / 32; j < keep_; j += kClusterWarps) {
      const uint32_t token = NearestUntaken(j);
      if (lane() == 0) m_.nearest[j] = token;
    }
    __syncthreads();
    for (uint32_t next = 0; threadIdx.x < 32 && next < keep_;) {
      // All centroids up to the first that finds its token gone take theirs at once.
      const bool mine = next + lane() < keep_;
      const uint32_t token = mine ? m_.nearest[next + lane()] : kNone;
      const uint32_t same = __match_any_sync(~0u, token);
      const bool gone = mine && (taken(token) || (same & ((1u << lane()) - 1)) != 0);
      const uint32_t all_gone = __ballot_sync(~0u, gone);
      const uint32_t count = all_gone != 0 ? __ffs(all_gone) - 1 : min(32u, keep_ - next);
      if (lane() < count) atomicOr(&m_.taken[token / 32], 1u << (token % 32));
      next += count;
      __syncwarp();
      if (all_gone == 0) continue;
      const uint32_t other = NearestUntaken(next++);
      __syncwarp();
      if (lane() == 0) m_.taken[other / 32] |= 1u << (other % 32);
      __syncwarp();
    }
    __syncthreads();
  }
  __device__ bool taken(uint32_t token) const { return m_.taken[token / 32] >> (token % 32) & 1; }

 private:
  static __device__ uint32_t lane() { return threadIdx.x % 32; }
  __device__ double* row(uint32_t j) const { return m_.rows + size_t{j} * tokens_; }
  __device__ uint16_t* members() const { return m_.members + threadIdx.x / 32 * tokens_; }

  // For a warp: puts centroid j on a token.
  __device__ void CopyRow(uint32_t j, uint32_t token) const {
    for (uint32_t x = lane(); x < tokens_; x += 32) row(j)[x] = squares_(token, x);
  }

  // For a warp: lists the tokens of cluster j in members(), ascending. Returns how many.
  __device__ uint32_t FindMembers(uint32_t j) const {
    __syncwarp();
    uint32_t size = 0;
#pragma unroll 4
    for (uint32_t w = 0; w < words_; ++w) {
      const uint32_t x = 32 * w + lane();
      const bool member = x < tokens_ && m_.cluster_of[x] == j;
      const uint32_t all = __ballot_sync(~0u, member);
      if (member) members()[size + __popc(all & ((1u << lane()) - 1))] = static_cast<uint16_t>(x);
      size += __popc(all);
    }
    __syncwarp();
    return size;
  }

  // For a warp: makes row j the sums of squared distances from the cluster's tokens. Returns their
  // sum over these tokens.
  __device__ double SumRow(uint32_t j, uint32_t size) const {
    constexpr uint32_t kAtOnce = 4;  // times 32 tokens
    double spread = 0.0;
    for (uint32_t first = lane(); first < tokens_; first += 32 * kAtOnce) {
      double sums[kAtOnce] = {};
#pragma unroll 2
      for (uint32_t i = 0; i < size; ++i) {
        const uint32_t member = members()[i];
#pragma unroll
        for (uint32_t k = 0; k < kAtOnce; ++k) {
          sums[k] += squares_(member, min(first + 32 * k, tokens_ - 1));
        }
      }
#pragma unroll
      for (uint32_t k = 0; k < kAtOnce; ++k) {
        const uint32_t x = first + 32 * k;
        if (x >= tokens_) continue;
        row(j)[x] = sums[k];
        if (m_.cluster_of[x] == j) spread += sums[k];
      }
    }
    __syncwarp();
    for (uint32_t d = 16; d > 0; d /= 2) spread += __shfl_xor_sync(~0u, spread, d);
    return spread;
  }

  // For a warp: the token nearest to centroid j of those not taken, the earliest of equals.
  __device__ uint32_t NearestUntaken(uint32_t j) const {
    uint64_t best = ~uint64_t{0};
    uint32_t token = kNone;
    for (uint32_t x = lane(); x < tokens_; x += 32) {
      const uint64_t distance = OrderedBits(row(j)[x]);
      if (!taken(x) && distance < best) {
        best = distance;
        token = x;
      }
    }
    const auto high = static_cast<uint32_t>(best >> 32), low = static_cast<uint32_t>(best);
    const uint32_t least_high = __reduce_min_sync(~0u, high);
    const uint32_t least_low = __reduce_min_sync(~0u, high == least_high ? low : kNone);
    return __reduce_min_sync(~0u, high == least_high && low == least_low ? token : kNone);
  }

  const ClusterMemory m_;
  const Squares<kShared> squares_;
  const uint32_t tokens_;
  const uint32_t keep_;
  const uint32_t words_;
};

}  // namespace palimpsest::cuda::anneal
