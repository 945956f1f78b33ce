// SPDX-License-Identifier: Apache-2.0
// Bytes: K, positions and masks of the live slots, and 12 bytes a key of scratch, which stay in L2.
// For an 8B model with 1,024 live nvfp4 tokens 0.6 MB a sequence and layer.
#include <algorithm>

#include "kernels/cuda/cta_reduce.cuh"
#include "kernels/cuda/position_ranks.cuh"
#include "kernels/cuda/sparsity.h"
#include "kernels/cuda/sparsity_keys.cuh"

namespace palimpsest::cuda {
namespace {

using namespace sparsity;  // NOLINT(google-build-using-namespace): this file's own headers

constexpr float kNegligible = 0.01f;  // of the largest probability
constexpr uint64_t kScratchBytesMax = uint64_t{64} << 20;
constexpr uint32_t kHeadsMax = 1024;  // KV heads

using Ranks = PositionRanks<kThreads>;

// The keys of a head, once all are there, spread over the CTA. Those of sequences of about a
// thousand tokens are read once and stay in registers.
class HeadKeys {
 public:
  __device__ explicit HeadKeys(const Head& head)
      : keys_(head.keys), slots_((head.pages() + 1) * kSlotsPerPage) {
    Load(threadIdx.x, first_);
  }

  // f(key) for every live one.
  template <typename F>
  __device__ void ForEach(F&& f) const {
    Visit(first_, f);
    for (uint32_t i = threadIdx.x + kBatch * kThreads; i < slots_; i += kBatch * kThreads) {
      Key batch[kBatch];
      Load(i, batch);
      Visit(batch, f);
    }
  }

 private:
  static constexpr int kBatch = 4;

  __device__ void Load(uint32_t first, Key (&batch)[kBatch]) const {
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const uint32_t i = first + k * kThreads;
      const uint2 raw = __ldcg(reinterpret_cast<const uint2*>(keys_ + min(i, slots_ - 1)));
      batch[k] = {i < slots_ ? raw.x : kDead, __uint_as_float(raw.y)};
    }
  }
  template <typename F>
  static __device__ void Visit(const Key (&batch)[kBatch], F& f) {
#pragma unroll
    for (const Key& key : batch) {
      if (key.position != kDead) f(key);
    }
  }

  const Key* const keys_;
  const uint32_t slots_;
  Key first_[kBatch];
};

// True for all threads of the CTA that comes last of `count`; it then sees what the others wrote.
// Leaves the counter at zero.
__device__ bool ArrivesLast(uint32_t* arrivals, uint32_t count) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(arrivals, 1) == count - 1;
    if (last) *arrivals = 0;
    __threadfence();
  }
  __syncthreads();
  return last;
}

// Brings the head's keys into order of position, exponentiated.
__device__ void SortByPosition(const Head& head, Ranks::Storage* storage) {
  const HeadKeys of(head);
  float max = -INFINITY;
  of.ForEach([&](const Key& key) { max = fmaxf(max, key.logit); });
  max = ReduceCta<kWarps>(max, Largest());
  Ranks ranks(storage);
  float sum = 0.0f;
  uint32_t keys = 0;
  for (uint32_t first = 0; first != Ranks::kNone; first = ranks.next()) {
    ranks.Begin(first);
    of.ForEach([&](const Key& key) { ranks.Add(key.position); });
    const uint32_t count = ranks.Count();
    of.ForEach([&](const Key& key) {
      if (!ranks.Covers(key.position)) return;
      const float e = expf(key.logit - max);
      head.in_order[keys + ranks.Rank(key.position)] = e;
      sum += e;
    });
    keys += count;
  }
  sum = ReduceCta<kWarps>(sum, Sum());
  if (threadIdx.x == 0) *head.summary = {sum, keys};
}

// The mean over heads, up to a constant factor, and how many keys are small beside the largest.
// in_order and summaries are the sequence's; its heads' keys lie `slots` apart.
__device__ float ShareOfSmall(float* in_order, const HeadSummary* summaries, uint32_t slots,
                              uint32_t heads) {
  __shared__ float inverse_sum[kHeadsMax];
  const uint32_t keys = __ldcg(&summaries->keys);
  bool unequal = false;
  for (uint32_t h = threadIdx.x; h < heads; h += kThreads) {
    unequal |= __ldcg(&summaries[h].keys) != keys;
    inverse_sum[h] = 1.0f / __ldcg(&summaries[h].sum);
  }
  if (__syncthreads_or(unequal)) return kUnequalHeads;
  float max = 0.0f;
#pragma unroll 4
  for (uint32_t j = threadIdx.x; j < keys; j += kThreads) {
    float sum = 0.0f;
#pragma unroll 8
    for (uint32_t h = 0; h < heads; ++h) {
      sum += __ldcg(in_order + size_t{h} * slots + j) * inverse_sum[h];
    }
    in_order[j] = sum;
    max = fmaxf(max, sum);
  }
  const float limit = kNegligible * ReduceCta<kWarps>(max, Largest());
  uint32_t small = 0;
  for (uint32_t j = threadIdx.x; j < keys; j += kThreads) small += in_order[j] < limit;
  return static_cast<float>(ReduceCta<kWarps>(small, Sum())) / static_cast<float>(keys);
}

// Grid: (stretches of pages, KV heads, sequences).
template <int kBlocks>
__global__ void __launch_bounds__(kThreads, kBlocks <= 2 ? 4 : 2)
    SparsityKernel(const __grid_constant__ SparsityLaunch launch) {
  extern __shared__ uint4 queries[];
  __shared__ Ranks::Storage ranks;
  const uint32_t heads = gridDim.y;
  const Head head(launch, blockIdx.z, blockIdx.y);
  const uint32_t stretches = (head.pages() + launch.units_per_cta) / launch.units_per_cta;
  if (blockIdx.x >= stretches) return;
  FindKeys<kBlocks>(head, blockIdx.y, reinterpret_cast<uint8_t*>(queries));

  uint32_t* arrivals = launch.params.arrivals + size_t{blockIdx.z} * (heads + 1);
  if (!ArrivesLast(arrivals + blockIdx.y, stretches)) return;
  SortByPosition(head, &ranks);
  if (!ArrivesLast(arrivals + heads, heads)) return;
  const float share = ShareOfSmall(head.in_order - size_t{blockIdx.y} * launch.slots,
                                   head.summary - blockIdx.y, launch.slots, heads);
  if (threadIdx.x == 0) launch.params.sparsity[blockIdx.z] = share;
}

uint64_t SequenceBytes(const DevicePool& pool, uint64_t pages) {
  return pool.kv_heads * ((pages + 1) * kSlotsPerPage * kSlotBytes + sizeof(HeadSummary));
}

// Warps enough to fill the device, pages enough a CTA to be worth its end.
uint32_t UnitsPerCta(uint64_t units) {
  constexpr uint32_t kCtasWanted = 2048;
  const uint64_t each = (units + kCtasWanted - 1) / kCtasWanted;
  return static_cast<uint32_t>(std::clamp<uint64_t>((each + kWarps - 1) / kWarps, 1, 8) * kWarps);
}

void LaunchKernel(const SparsityLaunch& launch, uint32_t count, cudaStream_t stream) {
  const DevicePool& pool = launch.params.pool;
  const uint32_t units = launch.params.pages_max + 1;
  const dim3 grid((units + launch.units_per_cta - 1) / launch.units_per_cta, pool.kv_heads, count);
  const int group = pool.query_heads / pool.kv_heads;
  const int padded = (group + kTileHeads - 1) / kTileHeads * kTileHeads;
  const int query_bytes = padded * (pool.head_dim * 2 + kQueryPadding);
  switch ((pool.head_dim + 63) / 64) {
    case 1:
      SparsityKernel<1><<<grid, kThreads, query_bytes, stream>>>(launch);
      return;
    case 2:
      SparsityKernel<2><<<grid, kThreads, query_bytes, stream>>>(launch);
      return;
    default:
      SparsityKernel<4><<<grid, kThreads, query_bytes, stream>>>(launch);
      return;
  }
}

}  // namespace

uint64_t SparsityScratchBytes(const DevicePool& pool, uint64_t pool_bytes,
                              uint64_t page_bytes_min) {
  const uint64_t pages = pool_bytes / page_bytes_min;
  // No page serves two sequences: this is enough for all of them with their open groups.
  return std::min(kScratchBytesMax,
                  SequenceBytes(pool, pages) + kWantedMax * SequenceBytes(pool, 0));
}

uint32_t SparsityPagesMax(const DevicePool& pool, uint64_t scratch_bytes) {
  constexpr uint64_t kLimit = ~uint32_t{0} / kSlotsPerPage - 1;  // slots are counted in 32 bits
  const uint64_t open_group = SequenceBytes(pool, 0);
  if (scratch_bytes < open_group) return 0;
  const uint64_t pages =
      (scratch_bytes - open_group) / (pool.kv_heads * kSlotsPerPage * kSlotBytes);
  return static_cast<uint32_t>(std::min(pages, kLimit));
}

uint32_t SparsityArrivals(const DevicePool& pool) { return kWantedMax * (pool.kv_heads + 1); }

cudaError_t LaunchSparsity(const SparsityParams& params, cudaStream_t stream) {
  const uint64_t each = SequenceBytes(params.pool, params.pages_max);
  const auto at_once =
      static_cast<uint32_t>(std::min<uint64_t>(kWantedMax, params.scratch_bytes / each));
  if (at_once == 0) return cudaErrorInvalidValue;
  SparsityLaunch launch{.params = params};
  launch.slots = (params.pages_max + 1) * kSlotsPerPage;
  for (uint32_t first = 0; first < params.wanted_count; first += at_once) {
    const uint32_t count = std::min(at_once, params.wanted_count - first);
    std::copy_n(params.wanted + first, count, launch.wanted);
    launch.params.sparsity = params.sparsity + first;
    launch.units_per_cta =
        UnitsPerCta(uint64_t{count} * params.pool.kv_heads * (params.pages_max + 1));
    LaunchKernel(launch, count, stream);
  }
  return cudaGetLastError();
}

}  // namespace palimpsest::cuda
