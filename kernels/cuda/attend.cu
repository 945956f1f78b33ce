// SPDX-License-Identifier: Apache-2.0
// One persistent CTA a multiprocessor, warps that work alone. A warp takes its items
// (attend_plan.h), streams their pages through its ring (page_stream.cuh) and folds each page into
// an online softmax on tensor cores (attend_tile.cuh).
//
// Bytes: every lane of every page once (data and scales), 2 bytes of mask (a 32-byte sector), 8 of
// table, and 4 more where the sequence is uneven; dead slots are read along with their page, not
// sorted out. Positions are not read: K carries its rotation.
//
// Warps of a team leave their states in their own rings, for the team's first to merge; pieces of a
// pair leave theirs in device memory, for the last to arrive. The order of merging is that of the
// pages whoever does it, so that results do not depend on timing.
#include "kernels/cuda/attend.h"
#include "kernels/cuda/attend_tile.cuh"
#include "kernels/cuda/launch_order.cuh"
#include "kernels/cuda/page_stream.cuh"
#include "kernels/cuda/trace_writer.cuh"

namespace palimpsest::cuda {
namespace {

constexpr int kWarps = kAttendWarps;
constexpr int kThreads = kWarps * 32;
static_assert(kWarps <= 16);               // named barriers; no team begins with the last warp
constexpr uint32_t kRingBytes = 18 << 10;  // two bf16 lanes at head_dim 128, eight of nvfp4

struct alignas(128) SharedMemory {
  uint8_t rings[kWarps][kRingBytes];
  uint64_t barriers[kWarps][kStagesMax];
  StreamedBlocks blocks[kWarps];
};

// The running maximum may lag behind by this much (in log2) before everything is rescaled for it:
// probabilities then stay below 2^8, which costs bf16 nothing.
constexpr float kMaxSlack = 8.0f;
constexpr float kNothingSeen = -1e30f;

struct AttendParams {
  DevicePool pool;
  DeviceLayouts layouts;
  AttendBuffers buffers;
  const uint8_t* q;  // [rows, query_heads, head_dim] bf16
  uint8_t* out;
  float scale_log2;  // softmax scale · log2(e)
  int layer;
  int group_heads;
  AttendTrace trace;  // of a traced launch
};

// The state of 8 queries, spread over a warp as attend_tile.cuh says: this thread's two queries
// and its head_dim / 8 channels. `sum` is this thread's share until Finish.
template <int kDim>
struct WarpState {
  float max[2] = {kNothingSeen, kNothingSeen};
  float sum[2] = {};
  float o[kDim / 16][4] = {};

  __device__ void Scale(float first, float second) {
    sum[0] *= first;
    sum[1] *= second;
#pragma unroll
    for (int j = 0; j < kDim / 16; ++j) {
      o[j][0] *= first, o[j][2] *= first;
      o[j][1] *= second, o[j][3] *= second;
    }
  }

  // Turns logits (log2) of 16 slots into probabilities · 2^kValueExponent against `max`, which is
  // raised first where it lags too far behind.
  template <int kValueExponent>
  __device__ __forceinline__ void Exponentiate(float (&s)[4]) {
    const float seen0 = fmaxf(s[0], s[2]), seen1 = fmaxf(s[1], s[3]);
    const bool far = seen0 > max[0] + kMaxSlack || seen1 > max[1] + kMaxSlack;
    if (__any_sync(~0u, far)) Raise(seen0, seen1);
    constexpr float kBack = PowerOfTwo(-kValueExponent);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      s[i] = Exp2(s[i] + (static_cast<float>(kValueExponent) - max[i % 2]));
    }
    sum[0] = fmaf(s[0] + s[2], kBack, sum[0]);
    sum[1] = fmaf(s[1] + s[3], kBack, sum[1]);
  }

  __device__ void Raise(float seen0, float seen1) {
#pragma unroll
    for (int step = 4; step < 32; step *= 2) {  // over the threads that share t
      seen0 = fmaxf(seen0, __shfl_xor_sync(~0u, seen0, step));
      seen1 = fmaxf(seen1, __shfl_xor_sync(~0u, seen1, step));
    }
    const float raised0 = fmaxf(max[0], seen0), raised1 = fmaxf(max[1], seen1);
    Scale(Exp2(max[0] - raised0), Exp2(max[1] - raised1));
    max[0] = raised0;
    max[1] = raised1;
  }

  // Adds up the threads' shares of `sum`.
  __device__ void Finish() {
#pragma unroll
    for (int step = 4; step < 32; step *= 2) {
      sum[0] += __shfl_xor_sync(~0u, sum[0], step);
      sum[1] += __shfl_xor_sync(~0u, sum[1], step);
    }
  }
};

// A state in memory, as its warp holds it: [kDim / 16][32 lanes] float4 of values, then [4] float4
// of (max, sum) of two queries each.
template <int kDim>
inline constexpr int kStateFloat4s = kDim / 16 * 32 + 4;
static_assert(kStateFloat4s<128> * sizeof(float4) <= kRingBytes);

template <int kDim, int kPairs>
class Attention {
 public:
  __device__ Attention(const AttendParams& params, SharedMemory& shared)
      : p_(params),
        shared_(shared),
        warp_(threadIdx.x / 32),
        lane_(threadIdx.x % 32),
        tracer_(params.trace, params.pool.kv_heads),
        stream_(params.pool, params.layouts, shared.rings[warp_], shared.barriers[warp_],
                shared.blocks[warp_]) {}

  __device__ void Run(AttendItem item, bool of_layer_plan) {
    const uint32_t lane_index = p_.layer * p_.pool.kv_heads + item.kv_head;
    const bool by_blocks = of_layer_plan && Complete(item, lane_index);
    stream_.Begin(p_.buffers.page_entries + item.first_page, item.page_count,
                  by_blocks ? PageStream::kByBlocks : lane_index, item.stage_bytes_16 * 16u,
                  ring_bytes_);
    const uint8_t* open = p_.pool.OpenLane(item.open_group, lane_index);
    WaitForPredecessor();
    if (item.with_open_group != 0) {
      Prefetch(open, kOpenLaneBytes);
      if (p_.pool.residue) Prefetch(p_.pool.Residue(item.open_group, lane_index), kResidueBytes);
    }
    LoadQueries(item);
    WarpState<kDim> state;
    if constexpr (kTraced) tracer_.BeginPages(item);
    for (uint32_t i = 0; i < item.page_count; ++i) {
      FoldPage(stream_.Next(), state);
      stream_.Release();
    }
    if constexpr (kTraced) tracer_.BeginOpenGroup(item);
    if (item.with_open_group != 0) FoldOpenGroup(open, item, state);
    state.Finish();
    if (p_.pool.residue && item.with_open_group != 0) FoldResidue(item, lane_index, state);
    if (item.team_size > 1 && !MergeTeam(item, state)) return;
    if (item.part_count > 1 && !MergePair(item, state)) return;
    Write(item, state);
  }

 private:
  static constexpr size_t kOpenLaneBytes = size_t{2} * kGroupTokens * kDim * 2;
  static constexpr size_t kResidueBytes = (2 * kDim + 4) * sizeof(float);
  static constexpr int kSteps = kDim / 16;
  static constexpr bool kTraced = kPairs > 0;
  static constexpr uint32_t kShortRingBytes =
      (kRingBytes - kStateFloat4s<kDim> * static_cast<uint32_t>(sizeof(float4))) / 128 * 128;

  // Puts in what an item of a layer's plan leaves out. True if its sequence is uneven: the stream
  // then knows its blocks.
  __device__ bool Complete(AttendItem& item, uint32_t lane_index) {
    const StepSequence& sequence = p_.buffers.sequences[item.row];
    const uint32_t first = item.first_page;
    const bool uneven = sequence.uneven();
    if (item.with_open_group != 0) {
      const uint32_t end =
          uneven ? p_.buffers.words[sequence.first_count + lane_index] : sequence.page_count;
      item.page_count = end - first;
    }
    item.first_page = sequence.first_page + (uneven ? 0 : first);
    item.row = sequence.row;
    item.open_group = sequence.open_group;
    item.open_count = static_cast<uint8_t>(sequence.open_count);
    item.slot_use = sequence.slot_use;
    item.evict_from = sequence.evict_from;
    if (!uneven) return false;
    __syncwarp();  // nobody reads of the item before
    if (lane_ == 0) {
      shared_.blocks[warp_] = {.first = first,
                               .even_pages = sequence.even_pages,
                               .round_first = p_.buffers.words + sequence.first_round,
                               .lane = lane_index,
                               .rank = p_.pool.lane_ranks[lane_index],
                               .lanes = static_cast<uint32_t>(p_.pool.layers * p_.pool.kv_heads)};
    }
    __syncwarp();
    return true;
  }

  __device__ void Prefetch(const void* bytes, size_t count) const {
    for (size_t at = lane_ * 128; at < count; at += 32 * 128) {
      asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const uint8_t*>(bytes) + at));
    }
  }

  // Byte offset in q and out of query `index` of the item's sequence.
  __device__ size_t QueryOffset(const AttendItem& item, uint32_t index) const {
    const uint32_t row = item.row + index / p_.group_heads;
    const uint32_t head = item.kv_head * p_.group_heads + index % p_.group_heads;
    return (size_t{row} * p_.pool.query_heads + head) * kDim * 2;
  }

  __device__ void LoadQueries(const AttendItem& item) {
    const uint32_t g = lane_ / 4, t = lane_ % 4;
    const uint32_t index = item.first_query + g;
    uint32_t words[2 * kSteps] = {};
    if (index < item.query_count) {
      LoadWords<2 * kSteps>(p_.q + QueryOffset(item, index) + t * (kDim / 2), words);
    }
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      q_.b[step][0] = words[2 * step];
      q_.b[step][1] = words[2 * step + 1];
    }
  }

  __device__ __forceinline__ void FoldPage(const StreamedPage& page, WarpState<kDim>& state) {
    float s[4];
    const uint8_t* values = page.bytes;
    values += WithFormat(page.formats.k,
                         [&]<Format kFormat>() { return this->Logits<kFormat>(page.bytes, s); });
    const uint32_t live = page.live >> SlotOfRow(lane_ / 4);
    if ((live & 1) == 0) s[0] = s[1] = -INFINITY;
    if ((live >> 8 & 1) == 0) s[2] = s[3] = -INFINITY;
    WithFormat(page.formats.v, [&]<Format kFormat>() { this->Values<kFormat>(values, s, state); });
  }

  // Logits (log2) of the 16 slots whose K lies at `keys`; returns how far behind it V lies.
  template <Format kFormat>
  __device__ __forceinline__ uint32_t Logits(const uint8_t* keys, float (&s)[4]) const {
    static_assert(kTileBytes<kFormat, kDim> % kFormatPairs == 0);  // as page_stream.cuh wants it
    TileLogits<kFormat, kDim>(keys, q_, lane_, s);
    constexpr float kFactor = PowerOfTwo(FactorExponent<kFormat>());
    const float scale = p_.scale_log2 * kFactor;
#pragma unroll
    for (int i = 0; i < 4; ++i) s[i] *= scale;
    return kTileBytes<kFormat, kDim>;
  }

  template <Format kFormat>
  __device__ __forceinline__ void Values(const uint8_t* values, float (&s)[4],
                                         WarpState<kDim>& state) {
    const ValueTile<kFormat, kDim> tile(values, lane_);  // on its way during the softmax
    state.template Exponentiate<FactorExponent<kFormat>()>(s);
    const uint32_t p[2] = {PackBf16(s[0], s[1]), PackBf16(s[2], s[3])};
    if constexpr (kTraced) {
      constexpr auto kExponent = static_cast<float>(FactorExponent<kFormat>());
      tracer_.Write(p, kExponent - state.max[0], kExponent - state.max[1]);
    }
    TileValues<kFormat, kDim>(tile, p, state.o);
  }

  // The open group lies like the lane of a bf16 page. Causal inside the step.
  __device__ void FoldOpenGroup(const uint8_t* open, const AttendItem& item,
                                WarpState<kDim>& state) {
    float s[4];
    const uint8_t* values = open + Logits<Format::kBf16>(open, s);
    const uint32_t slot = SlotOfRow(lane_ / 4);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t query = item.first_query + 2 * (lane_ % 4) + i % 2;
      const uint32_t seen = item.open_count + query / p_.group_heads + 1u;
      // At most what the step has appended: queries past the last one are padding.
      const uint32_t tokens = min(seen, uint32_t{item.open_count} + item.row_count);
      if (slot + 8 * (i / 2) >= tokens) s[i] = -INFINITY;
    }
    Values<Format::kBf16>(values, s, state);
  }

  // One more key and value, of the weight of all that were evicted. Few numbers, so without tensor
  // cores and in fp32.
  __device__ void FoldResidue(const AttendItem& item, uint32_t lane_index,
                              WarpState<kDim>& state) const {
    const float* residue = p_.pool.Residue(item.open_group, lane_index);
    const float count = residue[2 * kDim];
    if (count == 0.0f) return;
    const uint32_t g = lane_ / 4, t = lane_ % 4;
    // Of query g this thread has channels [t * kDim / 4, (t + 1) * kDim / 4).
    float logit = 0.0f;
    const auto* keys = reinterpret_cast<const float2*>(residue + t * (kDim / 4));
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t pair = q_.b[step][half];
        const float2 key = keys[2 * step + half];
        logit = fmaf(__uint_as_float(pair << 16), key.x, logit);
        logit = fmaf(__uint_as_float(pair & 0xffff0000u), key.y, logit);
      }
    }
    logit += __shfl_xor_sync(~0u, logit, 1);
    logit += __shfl_xor_sync(~0u, logit, 2);
    const float share = 1.0f / count;
    logit = logit * share * p_.scale_log2 + log2f(count);
    // The state is of queries 2t and 2t + 1.
    const float logits[2] = {__shfl_sync(~0u, logit, 8 * t), __shfl_sync(~0u, logit, 8 * t + 4)};
    float scale[2], weight[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float max = fmaxf(state.max[i], logits[i]);
      scale[i] = Exp2(state.max[i] - max);
      weight[i] = Exp2(logits[i] - max);
      state.max[i] = max;
    }
    state.Scale(scale[0], scale[1]);
    state.sum[0] += weight[0];
    state.sum[1] += weight[1];
    weight[0] *= share, weight[1] *= share;
    const auto* values = reinterpret_cast<const float2*>(residue + kDim + g * (kDim / 8));
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
      const float2 value = values[j];
      state.o[j][0] = fmaf(weight[0], value.x, state.o[j][0]);
      state.o[j][1] = fmaf(weight[1], value.x, state.o[j][1]);
      state.o[j][2] = fmaf(weight[0], value.y, state.o[j][2]);
      state.o[j][3] = fmaf(weight[1], value.y, state.o[j][3]);
    }
  }

  __device__ void Write(const AttendItem& item, const WarpState<kDim>& state) const {
    if constexpr (kTraced) tracer_.WriteSums(item, state.max, state.sum);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t index = item.first_query + 2 * (lane_ % 4) + i;
      if (index >= item.query_count) continue;
      const float inverse = 1.0f / state.sum[i];  // a row sees at least itself
      uint32_t words[kSteps];
#pragma unroll
      for (int j = 0; j < kSteps; ++j) {
        words[j] = PackBf16(state.o[j][i] * inverse, state.o[j][2 + i] * inverse);
      }
      uint8_t* to = p_.out + QueryOffset(item, index) + lane_ / 4 * (kDim / 4);
#pragma unroll
      for (int j = 0; j < kSteps; j += 4) {
        *reinterpret_cast<uint4*>(to + j * 4) =
            make_uint4(words[j], words[j + 1], words[j + 2], words[j + 3]);
      }
    }
  }

  // Where a warp of the item's team leaves its state: at the start of its ring, which it needs no
  // more; or at the end, if it goes on.
  __device__ float4* TeamState(const AttendItem& item, uint32_t member) const {
    const bool goes_on = item.team_goes_on != 0 && member + 1 == item.team_size;
    return reinterpret_cast<float4*>(shared_.rings[item.team_first + member] +
                                     (goes_on ? kShortRingBytes : 0));
  }

  // The first warp of the team, which has no further items, waits for the others and merges: true
  // there, with the whole piece's `state`.
  __device__ bool MergeTeam(const AttendItem& item, WarpState<kDim>& state) {
    const uint32_t member = warp_ - item.team_first;
    Store(state, TeamState(item, member));
    // The last of the team may have further items, and the state must outlive them.
    if (member + 1 == item.team_size) ring_bytes_ = kShortRingBytes;
    // Barriers are numbered by the team's first warp; that of all threads is number 0.
    const uint32_t barrier = item.team_first + 1u, threads = item.team_size * 32u;
    if (member > 0) {
      asm volatile("barrier.cta.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
      return false;
    }
    asm volatile("barrier.cta.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
    Merge(item.team_size, state, [&](uint32_t i) { return TeamState(item, i); });
    return true;
  }

  // True in the last warp to arrive of the pair; `state` is then the whole pair's.
  __device__ bool MergePair(const AttendItem& item, WarpState<kDim>& state) {
    const auto part = [&](uint32_t i) {
      return reinterpret_cast<float4*>(p_.buffers.parts) +
             size_t{item.first_part + i} * kStateFloat4s<kDim>;
    };
    Store(state, part(item.part));
    __threadfence();
    __syncwarp();
    uint32_t before = 0;
    if (lane_ == 0) {
      uint32_t* arrivals = &p_.buffers.arrivals[item.pair];
      before = atomicAdd(arrivals, 1);
      if (before + 1 == item.part_count) *arrivals = 0;  // as the next launch wants it
    }
    if (__shfl_sync(~0u, before, 0) + 1 != item.part_count) return false;
    __threadfence();
    Merge(item.part_count, state, part);
    return true;
  }

  __device__ void Store(const WarpState<kDim>& state, float4* to) const {
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
      to[j * 32 + lane_] = make_float4(state.o[j][0], state.o[j][1], state.o[j][2], state.o[j][3]);
    }
    if (lane_ < 4) {
      to[kSteps * 32 + lane_] = make_float4(state.max[0], state.sum[0], state.max[1], state.sum[1]);
    }
  }

  // Merges `count` states, the i-th at part_at(i), in order. Written by other warps, so read past
  // the first-level cache (volatile loads).
  template <typename PartAt>
  __device__ void Merge(uint32_t count, WarpState<kDim>& whole, const PartAt& part_at) const {
    const auto load = [](const float4* from) {
      float4 x;
      asm volatile("ld.volatile.v4.f32 {%0, %1, %2, %3}, [%4];"
                   : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
                   : "l"(from));
      return x;
    };
    whole = WarpState<kDim>{};
    for (uint32_t i = 0; i < count; ++i) {
      const float4* part = part_at(i);
      const float4 seen = load(&part[kSteps * 32 + lane_ % 4]);
      const float max0 = fmaxf(whole.max[0], seen.x), max1 = fmaxf(whole.max[1], seen.z);
      whole.Scale(Exp2(whole.max[0] - max0), Exp2(whole.max[1] - max1));
      const float scale0 = Exp2(seen.x - max0), scale1 = Exp2(seen.z - max1);
      whole.sum[0] += seen.y * scale0;
      whole.sum[1] += seen.w * scale1;
      whole.max[0] = max0, whole.max[1] = max1;
#pragma unroll
      for (int j = 0; j < kSteps; ++j) {
        const float4 o = load(&part[j * 32 + lane_]);
        whole.o[j][0] += o.x * scale0, whole.o[j][2] += o.z * scale0;
        whole.o[j][1] += o.y * scale1, whole.o[j][3] += o.w * scale1;
      }
    }
  }

  const AttendParams& p_;
  SharedMemory& shared_;
  const uint32_t warp_;
  const uint32_t lane_;
  uint32_t ring_bytes_ = kRingBytes;
  TraceWriter<kPairs> tracer_;
  PageStream stream_;
  QueryTile<kDim> q_;
};

template <int kDim, int kPairs>
__global__ void __launch_bounds__(kThreads, 1)
    AttendKernel(const __grid_constant__ AttendParams params) {
  extern __shared__ __align__(128) uint8_t bytes[];
  SharedMemory& shared = *reinterpret_cast<SharedMemory*>(bytes);
  AllowSuccessor();
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t stretch = blockIdx.x * kWarps + warp;
  uint32_t begin = params.buffers.first_item[stretch];
  uint32_t end = params.buffers.first_item[stretch + 1];
  const AttendItem* items = params.buffers.items;
  bool of_layer = false;
  if (params.buffers.layer_plans != nullptr) {
    const LayerPlanShape& shape = params.buffers.layer_plan;
    const uint8_t* plan = params.buffers.layer_plans + params.layer * shape.stride;
    const auto* first_item = reinterpret_cast<const uint32_t*>(plan);
    // Of both plans, whichever it is: one after the other would take longer.
    const uint32_t begin_of_layer = first_item[stretch], end_of_layer = first_item[stretch + 1];
    of_layer = params.buffers.header->layer_plans != 0;
    if (of_layer) {
      begin = begin_of_layer;
      end = end_of_layer;
      items = reinterpret_cast<const AttendItem*>(plan + shape.items_offset);
    }
  }
  if (lane < kStagesMax) InitBarrier(&shared.barriers[warp][lane]);
  FenceBarriers();
  __syncthreads();
  Attention<kDim, kPairs> attention(params, shared);
  for (uint32_t i = begin; i < end; ++i) {
    const AttendItem item = items[i];  // in registers
    attention.Run(item, of_layer);
  }
  WaitForPredecessor();  // warps without items too: who follows this kernel follows that one
}

// May start before the kernel in front of it has ended: pages and tables are from before the step's
// layers, and WaitForPredecessor stands before everything else.
template <int kDim, int kPairs>
cudaError_t Launch(const AttendParams& params, uint32_t ctas, cudaStream_t stream) {
  const auto kernel = AttendKernel<kDim, kPairs>;
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(SharedMemory));
  if (error != cudaSuccess) return error;
  return LaunchEarly(kernel, ctas, kThreads, sizeof(SharedMemory), params, stream);
}

template <int kDim>
cudaError_t LaunchFor(const AttendParams& params, bool traced, uint32_t ctas, cudaStream_t stream) {
  if (!traced) return Launch<kDim, 0>(params, ctas, stream);
  return params.trace.pairs == 2 ? Launch<kDim, 2>(params, ctas, stream)
                                 : Launch<kDim, 4>(params, ctas, stream);
}

}  // namespace

bool AttendSupports(int head_dim) { return head_dim == 64 || head_dim == 128; }

AttendGeometry GeometryFor(const DevicePool& pool, int multiprocessors, uint32_t rows_max,
                           uint32_t sequences_max) {
  return WithBounds({.cta_count = static_cast<uint32_t>(multiprocessors),
                     .warps_per_cta = kWarps,
                     .queries_max = kTileQueries},
                    {.layers = pool.layers, .kv_heads = pool.kv_heads, .head_dim = pool.head_dim},
                    pool.query_heads, rows_max, sequences_max);
}

cudaError_t LaunchAttend(const DevicePool& pool, const DeviceLayouts& layouts,
                         const AttendGeometry& geometry, const AttendBuffers& buffers, int layer,
                         const void* q, void* out, float scale, const AttendTrace* trace,
                         cudaStream_t stream) {
  constexpr float kLog2E = 1.4426950408889634f;
  const AttendParams params{.pool = pool,
                            .layouts = layouts,
                            .buffers = buffers,
                            .q = static_cast<const uint8_t*>(q),
                            .out = static_cast<uint8_t*>(out),
                            .scale_log2 = scale * kLog2E,
                            .layer = layer,
                            .group_heads = pool.query_heads / pool.kv_heads,
                            .trace = trace == nullptr ? AttendTrace{} : *trace};
  const uint32_t ctas = geometry.cta_count;
  switch (pool.head_dim) {
    case 64:
      return LaunchFor<64>(params, trace != nullptr, ctas, stream);
    case 128:
      return LaunchFor<128>(params, trace != nullptr, ctas, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace palimpsest::cuda
