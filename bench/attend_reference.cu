// SPDX-License-Identifier: Apache-2.0
#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "bench/attend_reference.h"
#include "bench/gpu/random_bits.cuh"

namespace palimpsest::bench {
namespace {

constexpr int kWarps = 8;
constexpr int kHeadDimMax = 256;

__device__ float E4m3(uint8_t code) {
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(code, __NV_E4M3)));
}

__device__ float E2m1(uint32_t code) {
  constexpr float kMagnitudes[] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  const float magnitude = kMagnitudes[code & 7];
  return code & 8 ? -magnitude : magnitude;
}

__device__ float Ternary(uint32_t code) {  // bit 0: magnitude, bit 1: sign
  return code & 1 ? (code & 2 ? -1.0f : 1.0f) : 0.0f;
}

__device__ float Int4(uint32_t code) { return code < 8 ? code : code - 16.0f; }

// The code of channel c of 8 in a word, written down independently of layout.h's functions.
__device__ uint32_t Nvfp4Code(uint32_t word, int c) {
  constexpr int kMagnitudes[] = {6, 3, 0, 9}, kSigns[] = {15, 12, 14, 13};
  const uint32_t half = c % 2 ? word >> 16 : word;
  return (half >> kMagnitudes[c / 2] & 7) | (half >> kSigns[c / 2] & 1) << 3;
}

// Channel c of a slot. A word holds n channels: even ones in its low half, odd ones in its high
// half.
__device__ float Channel(Format format, const uint8_t* data, const uint8_t* scales, int c) {
  constexpr int kBits[] = {16, 8, 4, 2, 4};
  constexpr float kSecondLevel[] = {1.0f, 1.0f / 256, 1.0f / 4, 1.0f / 4, 1.0f / 4};
  const int bits = kBits[static_cast<int>(format)];
  const int n = 32 / bits;
  const int element = c % n / 2 + c % 2 * (n / 2);
  const uint32_t word = reinterpret_cast<const uint32_t*>(data)[c / n];
  const uint32_t code = format == Format::kNvfp4 ? Nvfp4Code(word, c % n)
                                                 : word >> (element * bits) & ((1u << bits) - 1);
  if (format == Format::kBf16) return __uint_as_float(code << 16);
  const float scale = E4m3(scales[c / kChannelsPerScale]) * kSecondLevel[static_cast<int>(format)];
  switch (format) {
    case Format::kFp8:
      return E4m3(code) * scale;
    case Format::kNvfp4:
      return E2m1(code) * scale;
    case Format::kTernary:
      return Ternary(code) * scale;
    default:
      return Int4(code) * scale;
  }
}

// One token of one lane.
struct Token {
  PageFormat format;
  const uint8_t *k_data, *k_scales, *v_data, *v_scales;
};

// By one warp.
__device__ float Logit(const Token& token, const float* q, int head_dim, float scale) {
  float logit = 0;
  for (int c = threadIdx.x % 32; c < head_dim; c += 32) {
    logit += q[c] * Channel(token.format.k, token.k_data, token.k_scales, c);
  }
  for (int step = 16; step > 0; step /= 2) logit += __shfl_xor_sync(~0u, logit, step);
  return logit * scale;
}

// The online softmax of one warp; a thread has channels lane, lane + 32, ...
struct WarpState {
  float max = -INFINITY, sum = 0, v_max = 0;
  float acc[kHeadDimMax / 32] = {};

  __device__ void Fold(const Token& token, const float* q, int head_dim, float scale) {
    const int lane = threadIdx.x % 32;
    const float logit = Logit(token, q, head_dim, scale);
    const float new_max = fmaxf(max, logit);
    const float shrink = expf(max - new_max), weight = expf(logit - new_max);
    max = new_max;
    sum = sum * shrink + weight;
    for (int c = lane, i = 0; c < head_dim; c += 32, ++i) {
      const float v = Channel(token.format.v, token.v_data, token.v_scales, c);
      v_max = fmaxf(v_max, fabsf(v));
      acc[i] = acc[i] * shrink + weight * v;
    }
  }
};

__device__ Token TokenOfPage(const PageLayout& at, const uint8_t* lane, int slot) {
  const int dim = at.shape.head_dim;
  constexpr int kBits[] = {16, 8, 4, 2, 4};
  const int k_bytes = dim * kBits[static_cast<int>(at.format.k)] / 8;
  const int v_bytes = dim * kBits[static_cast<int>(at.format.v)] / 8;
  const int scale_bytes = dim / kChannelsPerScale;
  return {at.format, lane + slot * k_bytes, lane + at.k_scales_offset + slot * scale_bytes,
          lane + at.v_data_offset + slot * v_bytes, lane + at.v_scales_offset + slot * scale_bytes};
}

// Grid: (query_heads, batch). A warp takes every kWarps-th page; the first one the open group too.
__global__ void ReferenceKernel(PagesOnDevice on, int layer, uint32_t open_count,
                                const __nv_bfloat16* q, float scale, float* out, float* v_max) {
  const int dim = on.pool.head_dim, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int head = blockIdx.x / (on.pool.query_heads / on.pool.kv_heads);
  const uint64_t lane_index = uint64_t(layer) * on.pool.kv_heads + head;
  const uint64_t row = uint64_t{blockIdx.y} * gridDim.x + blockIdx.x;
  __shared__ float query[kHeadDimMax], max[kWarps], sum[kWarps], acc[kWarps][kHeadDimMax];
  for (int c = threadIdx.x; c < dim; c += blockDim.x) query[c] = __bfloat162float(q[row * dim + c]);
  __syncthreads();

  WarpState state;
  const bool uneven = on.blocks != nullptr;
  const uint32_t lanes = on.pool.layers * on.pool.kv_heads;
  const uint32_t first = uneven ? on.first_block[lane_index] : 0;
  const uint32_t count = uneven ? on.first_block[lane_index + 1] - first : on.pages_each;
  for (uint32_t i = warp; i < count; i += kWarps) {
    const uint32_t index = uneven ? on.blocks[first + i] / lanes : i;
    const uint64_t place = uneven ? on.blocks[first + i] % lanes : lane_index;
    const PageRef ref = on.pages[uint64_t{blockIdx.y} * on.pages_each + index];
    const PageLayout& at = on.layouts[ref % kPageAlignment];
    const uint8_t* page = on.pool.pages + ref / kPageAlignment * kPageAlignment;
    const uint32_t live = *reinterpret_cast<const uint16_t*>(page + at.masks_offset + place * 2);
    for (int slot = 0; slot < kSlotsPerPage; ++slot) {
      if (live >> slot & 1) {
        state.Fold(TokenOfPage(at, page + place * at.lane_bytes, slot), query, dim, scale);
      }
    }
  }
  const uint8_t* open = on.pool.open_groups + blockIdx.y * on.pool.open_group_bytes +
                        lane_index * 2 * kGroupTokens * dim * 2;
  for (uint32_t t = 0; warp == 0 && t < open_count; ++t) {
    const uint8_t* k = open + t * dim * 2;
    state.Fold({{}, k, nullptr, k + kGroupTokens * dim * 2, nullptr}, query, dim, scale);
  }

  for (int c = lane, i = 0; c < dim; c += 32, ++i) acc[warp][c] = state.acc[i];
  if (lane == 0) max[warp] = state.max, sum[warp] = state.sum;
  // Floats of one sign order as their bits do.
  atomicMax(reinterpret_cast<int*>(v_max), __float_as_int(state.v_max));
  __syncthreads();
  for (int c = threadIdx.x; c < dim; c += blockDim.x) {
    float all_max = -INFINITY, all_sum = 0, all = 0;
    for (int w = 0; w < kWarps; ++w) all_max = fmaxf(all_max, max[w]);
    for (int w = 0; w < kWarps; ++w) {
      const float share = max[w] == -INFINITY ? 0.0f : expf(max[w] - all_max);
      all_sum += share * sum[w];
      all += share * acc[w][c];
    }
    out[row * dim + c] = all / all_sum;
  }
}

// One lane of one page.
struct LaneOfPage {
  const PageLayout& at;
  const uint8_t* page;
  uint64_t lane;

  __device__ LaneOfPage(const PagesOnDevice& on, int layer, int kv_head, uint32_t index)
      : LaneOfPage(on, on.pages[uint64_t{blockIdx.y} * on.pages_each + index],
                   uint64_t(layer) * on.pool.kv_heads + kv_head) {}
  __device__ LaneOfPage(const PagesOnDevice& on, PageRef ref, uint64_t lane_index)
      : at(on.layouts[ref % kPageAlignment]),
        page(on.pool.pages + ref / kPageAlignment * kPageAlignment),
        lane(lane_index) {}
  __device__ bool live(int slot) const {
    return reinterpret_cast<const uint16_t*>(page + at.masks_offset)[lane] >> slot & 1;
  }
  __device__ Token token(int slot) const {
    return TokenOfPage(at, page + lane * at.lane_bytes, slot);
  }
  template <typename T>
  __device__ T word(uint64_t offset, int slot) const {
    return reinterpret_cast<const T*>(page + offset)[lane * kSlotsPerPage + slot];
  }
};

// Grid: (query_heads, batch); a warp's work is a page, the last one's the open group too.
__global__ void LogSumKernel(PagesOnDevice on, int layer, uint32_t open_count,
                             const __nv_bfloat16* q, float scale, float* log_sums) {
  const int dim = on.pool.head_dim, warp = threadIdx.x / 32;
  const int head = blockIdx.x / (on.pool.query_heads / on.pool.kv_heads);
  const uint64_t row = uint64_t{blockIdx.y} * gridDim.x + blockIdx.x;
  __shared__ float query[kHeadDimMax], sums[kWarps];
  for (int c = threadIdx.x; c < dim; c += blockDim.x) query[c] = __bfloat162float(q[row * dim + c]);
  __syncthreads();
  float log_sum = -INFINITY;
  const auto add = [&](float logit) {
    const float max = fmaxf(log_sum, logit);
    log_sum = max + logf(expf(log_sum - max) + expf(logit - max));
  };
  for (uint32_t p = warp; p < on.pages_each; p += kWarps) {
    const LaneOfPage of(on, layer, head, p);
    for (int slot = 0; slot < kSlotsPerPage; ++slot) {
      if (of.live(slot)) add(Logit(of.token(slot), query, dim, scale));
    }
  }
  const uint8_t* open = on.pool.open_groups + blockIdx.y * on.pool.open_group_bytes +
                        (uint64_t(layer) * on.pool.kv_heads + head) * 2 * kGroupTokens * dim * 2;
  for (uint32_t t = 0; warp == kWarps - 1 && t < open_count; ++t) {
    add(Logit({{}, open + t * dim * 2, nullptr, nullptr, nullptr}, query, dim, scale));
  }
  sums[warp] = log_sum;
  __syncthreads();
  log_sum = -INFINITY;
  for (const float of_warp : sums) {
    if (of_warp != -INFINITY) add(of_warp);
  }
  log_sums[row] = log_sum;
}

// Grid: (kv_heads, batch). A warp takes every kWarps-th page.
__global__ void JudgeKernel(PagesOnDevice on, int layer, const __nv_bfloat16* q, float scale,
                            const float* log_sums, JudgedSlot* judged) {
  const int dim = on.pool.head_dim, head = blockIdx.x;
  const int group = on.pool.query_heads / on.pool.kv_heads;
  const uint64_t row =
      (uint64_t{blockIdx.y} * gridDim.x + head) * group;  // of the first query head
  extern __shared__ float queries[];                      // [group][dim]
  for (int c = threadIdx.x; c < group * dim; c += blockDim.x) {
    queries[c] = __bfloat162float(q[row * dim + c]);
  }
  __syncthreads();
  judged += (uint64_t{blockIdx.y} * gridDim.x + head) * on.pages_each * kSlotsPerPage;
  for (uint32_t p = threadIdx.x / 32; p < on.pages_each; p += kWarps) {
    const LaneOfPage of(on, layer, head, p);
    for (int slot = 0; slot < kSlotsPerPage; ++slot) {
      JudgedSlot as{.score = of.word<float>(of.at.scores_offset, slot),
                    .position = of.word<uint32_t>(of.at.positions_offset, slot),
                    .live = of.live(slot)};
      for (int g = 0; g < group; ++g) {
        const float logit = Logit(of.token(slot), queries + g * dim, dim, scale);
        as.mass += expf(logit - log_sums[row + g]);
      }
      if (threadIdx.x % 32 == 0) judged[p * kSlotsPerPage + slot] = as;
    }
  }
}

// A thread a (page, lane).
__global__ void PunchHolesKernel(PagesOnDevice on, const uint8_t* live, uint64_t seed) {
  const uint64_t lanes = uint64_t(on.pool.layers) * on.pool.kv_heads;
  const uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= on.batch * on.pages_each * lanes) return;
  const PageRef ref = on.pages[i / lanes];
  const PageLayout& at = on.layouts[ref % kPageAlignment];
  uint8_t* page = on.pool.pages + ref / kPageAlignment * kPageAlignment;
  uint32_t mask = 0xffff;
  uint64_t bits = RandomBits(seed, i);
  for (int left = kSlotsPerPage; left > live[i / lanes % on.pages_each]; --left) {
    const int nth = bits % left;  // the nth live slot dies
    bits /= left;                 // 16! < 2^64: enough bits for all of them
    mask &= ~(1u << __fns(mask, 0, nth + 1));
  }
  *reinterpret_cast<uint16_t*>(page + at.masks_offset + i % lanes * 2) = mask;
}

}  // namespace

cudaError_t ReferenceAttend(const PagesOnDevice& on, int layer, uint32_t open_count, const void* q,
                            float scale, float* out, float* v_max, cudaStream_t stream) {
  const dim3 grid(on.pool.query_heads, on.batch);
  ReferenceKernel<<<grid, kWarps * 32, 0, stream>>>(
      on, layer, open_count, static_cast<const __nv_bfloat16*>(q), scale, out, v_max);
  return cudaGetLastError();
}

cudaError_t JudgeSlots(const PagesOnDevice& on, int layer, uint32_t open_count, const void* q,
                       float scale, float* log_sums, JudgedSlot* judged, cudaStream_t stream) {
  const auto* queries = static_cast<const __nv_bfloat16*>(q);
  LogSumKernel<<<dim3(on.pool.query_heads, on.batch), kWarps * 32, 0, stream>>>(
      on, layer, open_count, queries, scale, log_sums);
  const size_t query_bytes =
      sizeof(float) * on.pool.query_heads / on.pool.kv_heads * on.pool.head_dim;
  JudgeKernel<<<dim3(on.pool.kv_heads, on.batch), kWarps * 32, query_bytes, stream>>>(
      on, layer, queries, scale, log_sums, judged);
  return cudaGetLastError();
}

cudaError_t PunchHoles(const PagesOnDevice& on, const uint8_t* live, uint64_t seed,
                       cudaStream_t stream) {
  constexpr uint64_t kThreads = 256;
  const uint64_t count = uint64_t{on.batch} * on.pages_each * on.pool.layers * on.pool.kv_heads;
  PunchHolesKernel<<<(count + kThreads - 1) / kThreads, kThreads, 0, stream>>>(on, live, seed);
  return cudaGetLastError();
}

}  // namespace palimpsest::bench
