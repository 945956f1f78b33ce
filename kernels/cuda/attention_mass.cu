// SPDX-License-Identifier: Apache-2.0
// A CTA a (sequence, KV head), a thread a slot: 16 bytes of probabilities, read once; the
// references and denominators are shared by a tile and by a CTA.
#include "kernels/cuda/attention_mass.h"

namespace palimpsest::cuda {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kQueries = 8;

__device__ float Low(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ float High(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

__global__ void __launch_bounds__(kThreads)
    AttentionMassKernel(DevicePool pool, const StepHeader* header, const StepSequence* sequences,
                        AttendTrace trace, float* mass) {
  if (blockIdx.x >= header->sequence_count) return;
  const StepSequence sequence = sequences[blockIdx.x];
  const uint32_t head = blockIdx.y;
  const uint32_t group = pool.query_heads / pool.kv_heads;
  const bool traced = sequence.row_count == 1 && group <= kQueries;
  const float* log_sums = trace.log_sums + (sequence.row * gridDim.y + head) * kQueries;
  float log_sum[kQueries];
#pragma unroll
  for (uint32_t q = 0; q < kQueries; ++q) log_sum[q] = traced && q < group ? log_sums[q] : 0.0f;
  // One tile more than there are pages: the open group.
  const uint32_t slots = (sequence.page_count + 1) * kSlotsPerPage;
  for (uint32_t i = threadIdx.x; i < slots; i += kThreads) {
    const uint32_t page = i / kSlotsPerPage;
    const bool open = page == sequence.page_count;
    const size_t tile =
        size_t{head} * trace.tiles +
        (open ? trace.pages_max + sequence.row : sequence.first_page + page - trace.first_page);
    const size_t slot = tile * kSlotsPerPage + i % kSlotsPerPage;
    float sum = 0.0f;
    if (traced) {
      const uint4 p = reinterpret_cast<const uint4*>(trace.probabilities)[slot];
      const float values[kQueries] = {Low(p.x), High(p.x), Low(p.y), High(p.y),
                                      Low(p.z), High(p.z), Low(p.w), High(p.w)};
#pragma unroll
      for (uint32_t q = 0; q < kQueries; ++q) {
        const float reference = trace.references[tile * kQueries + q];
        if (q < group) sum += values[q] * exp2f(reference - log_sum[q]);
      }
    }
    mass[slot] = sum;
  }
}

}  // namespace

cudaError_t LaunchAttentionMass(const DevicePool& pool, const StepHeader* header,
                                const StepSequence* sequences, uint32_t sequences_max,
                                const AttendTrace& trace, float* mass, cudaStream_t stream) {
  const dim3 grid(sequences_max, static_cast<uint32_t>(pool.kv_heads));
  AttentionMassKernel<<<grid, kThreads, 0, stream>>>(pool, header, sequences, trace, mass);
  return cudaGetLastError();
}

}  // namespace palimpsest::cuda
