// SPDX-License-Identifier: Apache-2.0
// Norms: one CTA a row, four channels a thread and round, kept in registers between the sum of
// squares and the scaling, so that the residual is read once: 4 bytes in and 2 out a channel.
// SwiGLU: eight channels a thread, 4 bytes in and 2 out a channel. At decode sizes all of it lies
// in L2 and the launch costs more than the bytes.
#include <cuda_bf16.h>

#include <algorithm>

#include "services/decode/model/cuda/elementwise.h"
#include "services/decode/model/cuda/launch.cuh"

namespace palimpsest::cuda {
namespace {

constexpr int kThreadsMax = 1024;
constexpr int kRounds = 4;
constexpr int kSwiGluThreads = 256;

struct NormInputs {
  const float* residual = nullptr;   // read, unless there are tokens
  const uint32_t* source = nullptr;  // null: row i is residual[i]
  TokenSource tokens;
  const __nv_bfloat16* embedding = nullptr;
  float* residual_out = nullptr;  // with tokens
};

__device__ float4 FromBf16(uint2 words) {
  return make_float4(__uint_as_float(words.x << 16), __uint_as_float(words.x & 0xffff0000u),
                     __uint_as_float(words.y << 16), __uint_as_float(words.y & 0xffff0000u));
}
__device__ uint32_t ToBf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}

// The sum over the CTA, in an order that is always the same.
__device__ float BlockSum(float value) {
  __shared__ float warp_sums[kThreadsMax / 32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (lane == 0) warp_sums[warp] = value;
  __syncthreads();
  value = lane < blockDim.x / 32 ? warp_sums[lane] : 0.0f;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  return value;
}

__device__ uint32_t TokenOf(const TokenSource& tokens, uint32_t row) {
  const int32_t id = tokens.ids[row];
  return static_cast<uint32_t>(id >= 0 ? id : max(tokens.chosen[-2 - id], 0));
}

template <bool kEmbeds>
__global__ void __launch_bounds__(kThreadsMax)
    RmsNormKernel(NormInputs in, RmsNormWeight norm, __nv_bfloat16* normed) {
  const auto fours = static_cast<uint32_t>(norm.hidden / 4);
  const auto* weight = static_cast<const uint2*>(norm.weight);
  uint2 scale[kRounds];
#pragma unroll
  for (int i = 0; i < kRounds; ++i) {  // weights never change: no need to wait for others
    const uint32_t four = threadIdx.x + i * blockDim.x;
    if (four < fours) scale[i] = weight[four];
  }
  WaitForInputs();
  const uint32_t row = blockIdx.x;
  const uint32_t source = kEmbeds                ? TokenOf(in.tokens, row)
                          : in.source != nullptr ? in.source[row]
                                                 : row;
  const size_t start = size_t{source} * fours;
  float4 x[kRounds];
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kRounds; ++i) {
    const uint32_t four = threadIdx.x + i * blockDim.x;
    if (four >= fours) continue;
    if constexpr (kEmbeds) {
      x[i] = FromBf16(reinterpret_cast<const uint2*>(in.embedding)[start + four]);
      reinterpret_cast<float4*>(in.residual_out)[size_t{row} * fours + four] = x[i];
    } else {
      x[i] = reinterpret_cast<const float4*>(in.residual)[start + four];
    }
    sum += x[i].x * x[i].x + x[i].y * x[i].y + x[i].z * x[i].z + x[i].w * x[i].w;
  }
  const float inverse = rsqrtf(BlockSum(sum) / static_cast<float>(norm.hidden) + norm.eps);
#pragma unroll
  for (int i = 0; i < kRounds; ++i) {
    const uint32_t four = threadIdx.x + i * blockDim.x;
    if (four >= fours) continue;
    const float4 w = FromBf16(scale[i]);
    reinterpret_cast<uint2*>(normed)[size_t{row} * fours + four] =
        make_uint2(ToBf16(x[i].x * inverse * w.x, x[i].y * inverse * w.y),
                   ToBf16(x[i].z * inverse * w.z, x[i].w * inverse * w.w));
  }
}

template <bool kEmbeds>
cudaError_t LaunchNorm(const NormInputs& in, const RmsNormWeight& norm, void* normed, uint32_t rows,
                       cudaStream_t stream) {
  // Few rows: many threads each, for the time of one. Many: more rows at once.
  constexpr uint32_t kManyRows = 256;
  const int rounds = rows > kManyRows ? kRounds : 1;
  const int warps = (norm.hidden / 4 + 32 * rounds - 1) / (32 * rounds);
  const auto threads = static_cast<uint32_t>(std::min(32 * warps, kThreadsMax));
  return Launch(RmsNormKernel<kEmbeds>, {.ctas = rows, .threads = threads}, stream, in, norm,
                static_cast<__nv_bfloat16*>(normed));
}

__device__ float SiluTimes(float gate, float up) { return gate / (1.0f + __expf(-gate)) * up; }

__global__ void __launch_bounds__(kSwiGluThreads)
    SwiGluKernel(const uint4* gate_up, uint32_t eights, uint32_t count, uint4* gated) {
  WaitForInputs();
  const uint32_t at = blockIdx.x * kSwiGluThreads + threadIdx.x;
  if (at >= count) return;
  const uint32_t row = at / eights;
  const uint4* gate = gate_up + size_t{row} * 2 * eights + at % eights;
  const uint4 g = *gate, u = gate[eights];
  const uint32_t gates[4] = {g.x, g.y, g.z, g.w}, ups[4] = {u.x, u.y, u.z, u.w};
  uint32_t out[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float low = SiluTimes(__uint_as_float(gates[i] << 16), __uint_as_float(ups[i] << 16));
    const float high =
        SiluTimes(__uint_as_float(gates[i] & 0xffff0000u), __uint_as_float(ups[i] & 0xffff0000u));
    out[i] = ToBf16(low, high);
  }
  gated[at] = make_uint4(out[0], out[1], out[2], out[3]);
}

}  // namespace

bool ElementwiseSupports(int hidden) {
  return hidden % 8 == 0 && hidden <= 4 * kRounds * kThreadsMax;
}

cudaError_t Embed(const TokenSource& tokens, const void* embedding, const RmsNormWeight& norm,
                  float* residual, void* normed, uint32_t rows, cudaStream_t stream) {
  const NormInputs in = {.tokens = tokens,
                         .embedding = static_cast<const __nv_bfloat16*>(embedding),
                         .residual_out = residual};
  return LaunchNorm<true>(in, norm, normed, rows, stream);
}

cudaError_t RmsNorm(const float* residual, const RmsNormWeight& norm, void* normed, uint32_t rows,
                    cudaStream_t stream) {
  return LaunchNorm<false>({.residual = residual}, norm, normed, rows, stream);
}

cudaError_t GatherRmsNorm(const float* residual, const uint32_t* source, const RmsNormWeight& norm,
                          void* normed, uint32_t rows, cudaStream_t stream) {
  return LaunchNorm<false>({.residual = residual, .source = source}, norm, normed, rows, stream);
}

cudaError_t SwiGlu(const void* gate_up, int size, void* gated, uint32_t rows, cudaStream_t stream) {
  const auto eights = static_cast<uint32_t>(size / 8);
  const uint32_t count = rows * eights;
  const LaunchShape shape = {.ctas = (count + kSwiGluThreads - 1) / kSwiGluThreads,
                             .threads = kSwiGluThreads};
  return Launch(SwiGluKernel, shape, stream, static_cast<const uint4*>(gate_up), eights, count,
                static_cast<uint4*>(gated));
}

}  // namespace palimpsest::cuda
