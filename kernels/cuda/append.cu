// SPDX-License-Identifier: Apache-2.0
// kDim / 16 neighbouring threads a head of a row, each with 8 channels and the 8 that RoPE pairs
// them with: two 16-byte loads, two 16-byte stores, everything between in registers.
//
// Bytes of a row and layer: q, k and v once in, once out (q twice where a sequence keeps its
// newest queries); 4 * kDim of the RoPE table, from L2 for all heads but one. At decode sizes the
// launch costs more than the bytes.
#include <cuda_bf16.h>

#include "kernels/cuda/append.h"
#include "kernels/cuda/hadamard.cuh"
#include "kernels/cuda/launch_order.cuh"

namespace palimpsest::cuda {
namespace {

constexpr int kThreads = 128;
constexpr float kBf16Max = 0x1.fep127f;
enum class HeadKind : uint8_t { kQuery, kKey, kValue };

// Eight channels at `at` as floats.
__device__ void Load8(const __nv_bfloat16* at, float* x) {
  const uint4 words = *reinterpret_cast<const uint4*>(at);
  const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = __uint_as_float(word[i] << 16);
    x[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
  }
}

// Rounds to bf16; what is too large becomes the largest number, NaN zero.
__device__ void Store8(const float* x, __nv_bfloat16* at) {
  uint32_t word[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float pair[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float value = x[2 * i + j];
      pair[j] = isnan(value) ? 0.0f : fminf(fmaxf(value, -kBf16Max), kBf16Max);
    }
    const __nv_bfloat162 rounded = __floats2bfloat162_rn(pair[0], pair[1]);
    word[i] = reinterpret_cast<const uint32_t&>(rounded);
  }
  *reinterpret_cast<uint4*>(at) = make_uint4(word[0], word[1], word[2], word[3]);
}

__device__ float RoundToBf16(float x) { return __bfloat162float(__float2bfloat16_rn(x)); }

// RMSNorm as transformers computes it: in fp32, rounded to bf16 before the weight and after it.
template <int kDim>
__device__ void Norm(float (&x)[16], const __nv_bfloat16* weight, float eps, int channel,
                     uint32_t mask) {
  float sum = 0.0f;
#pragma unroll
  for (const float value : x) sum = fmaf(value, value, sum);
#pragma unroll
  for (int thread = 1; thread < kDim / 16; thread *= 2) {
    sum += __shfl_xor_sync(mask, sum, thread);
  }
  const float inverse = rsqrtf(sum / kDim + eps);
  float weights[16];
  Load8(weight + channel, weights);
  Load8(weight + channel + kDim / 2, weights + 8);
#pragma unroll
  for (int i = 0; i < 16; ++i) x[i] = RoundToBf16(RoundToBf16(x[i] * inverse) * weights[i]);
}

// Rotates pairs (c, c + kDim / 2). `cos_sin`: the position's, at this thread's first channel.
__device__ void Rope(float (&x)[16], const float* cos_sin) {
#pragma unroll
  for (int i = 0; i < 8; i += 2) {
    const float4 two = reinterpret_cast<const float4*>(cos_sin)[i / 2];
    const float cos[2] = {two.x, two.z}, sin[2] = {two.y, two.w};
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float low = x[i + j], high = x[i + j + 8];
      x[i + j] = low * cos[j] - high * sin[j];
      x[i + j + 8] = high * cos[j] + low * sin[j];
    }
  }
}

struct Head {
  HeadKind kind;
  uint32_t index;  // among those of its kind
};
__device__ Head HeadAt(const AppendParams& p, uint32_t index) {
  if (index < p.q.heads) return {HeadKind::kQuery, index};
  index -= p.q.heads;
  if (index < p.k.heads) return {HeadKind::kKey, index};
  return {HeadKind::kValue, index - p.k.heads};
}

// Where the head's first channel goes.
template <int kDim>
__device__ __nv_bfloat16* Target(const AppendParams& p, Head head, uint32_t row,
                                 const StepRow& at) {
  if (head.kind == HeadKind::kQuery) {
    return static_cast<__nv_bfloat16*>(p.q_out) + (size_t{row} * p.q.heads + head.index) * kDim;
  }
  const uint32_t lane = p.layer * p.pool.kv_heads + head.index;
  const size_t slot = (head.kind == HeadKind::kValue ? kGroupTokens : 0) + at.slot;
  return reinterpret_cast<__nv_bfloat16*>(p.pool.OpenLane(at.open_group, lane)) + slot * kDim;
}

// Where the head's query is kept.
template <int kDim>
__device__ __nv_bfloat16* KeptQuery(const AppendParams& p, Head head, const StepRow& at) {
  const size_t of_head =
      (size_t{at.open_group} * p.pool.layers + p.layer) * p.pool.query_heads + head.index;
  return reinterpret_cast<__nv_bfloat16*>(p.queries.queries) +
         (of_head * p.queries.window + at.position % p.queries.window) * kDim;
}

template <int kDim>
__global__ void __launch_bounds__(kThreads) AppendKernel(const __grid_constant__ AppendParams p) {
  constexpr uint32_t kHeadThreads = kDim / 16;
  const uint32_t heads = p.q.heads + p.k.heads + p.v.heads;
  const uint32_t unit = (blockIdx.x * kThreads + threadIdx.x) / kHeadThreads;
  const uint32_t row = unit / heads;
  // The step's tables are from before its layers, so they can be read before the kernel that makes
  // q, k and v has ended.
  AllowSuccessor();
  StepRow at{.open_group = kNoRow};
  if (row < p.row_count && row < p.header->row_count) at = p.rows[row];
  WaitForPredecessor();
  // From here on threads leave by whole heads, which is what the shuffles below need.
  if (at.open_group == kNoRow) return;
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t mask = ((1u << kHeadThreads) - 1) << (lane / kHeadThreads * kHeadThreads);
  const int channel = 8 * (lane % kHeadThreads);
  const Head head = HeadAt(p, unit % heads);

  const bool is_query = head.kind == HeadKind::kQuery;
  const HeadRows& source = is_query ? p.q : head.kind == HeadKind::kKey ? p.k : p.v;
  const __nv_bfloat16* from = static_cast<const __nv_bfloat16*>(source.data) +
                              size_t{row} * source.row_stride + head.index * kDim + channel;
  float x[16];
  Load8(from, x);
  Load8(from + kDim / 2, x + 8);
  if (head.kind != HeadKind::kValue) {
    const void* norm = is_query ? p.q_norm : p.k_norm;
    if (norm != nullptr) {
      Norm<kDim>(x, static_cast<const __nv_bfloat16*>(norm), p.rms_eps, channel, mask);
    }
    if (p.rope_cos_sin != nullptr) {
      const uint32_t position = min(at.position, p.positions - 1);
      if (position != at.position) {
        p.faults.Raise({.kind = FaultKind::kPosition, .found = p.positions, .needed = at.position});
      }
      Rope(x, p.rope_cos_sin + size_t{position} * kDim + 2 * channel);
    }
    if (p.rotate) Hadamard<kDim>(x, mask);
  }
  bool bad = false;
#pragma unroll
  for (const float value : x) bad |= is_query ? !isfinite(value) : isnan(value);
  if (bad) {
    p.faults.Raise(
        {.kind = FaultKind::kNotFinite, .sequence = row, .layer = static_cast<uint32_t>(p.layer)});
  }
  if (is_query && at.keeps_query && p.queries.queries != nullptr) {
    __nv_bfloat16* to = KeptQuery<kDim>(p, head, at) + channel;
    Store8(x, to);
    Store8(x + 8, to + kDim / 2);
  }
  if (is_query && p.q_out == nullptr) return;
  __nv_bfloat16* to = Target<kDim>(p, head, row, at) + channel;
  Store8(x, to);
  Store8(x + 8, to + kDim / 2);
  if (p.pool.slot_scores && head.kind == HeadKind::kKey && channel == 0) {
    const uint32_t lane_index = p.layer * p.pool.kv_heads + head.index;
    p.pool.OpenScores(at.open_group, lane_index)[at.slot] = 0.0f;
  }
}

template <int kDim>
cudaError_t Launch(const AppendParams& params, cudaStream_t stream) {
  const uint32_t heads = params.q.heads + params.k.heads + params.v.heads;
  const uint64_t threads = uint64_t{params.row_count} * heads * (kDim / 16);
  const auto ctas = static_cast<uint32_t>((threads + kThreads - 1) / kThreads);
  return LaunchEarly(AppendKernel<kDim>, ctas, kThreads, 0, params, stream);
}

}  // namespace

cudaError_t LaunchAppend(const AppendParams& params, cudaStream_t stream) {
  return params.pool.head_dim == 64 ? Launch<64>(params, stream) : Launch<128>(params, stream);
}

cudaError_t ProbeAppend() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, AppendKernel<64>);
}

}  // namespace palimpsest::cuda
