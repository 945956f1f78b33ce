// SPDX-License-Identifier: Apache-2.0
#include <cstdint>

#include "bench/gpu/ceilings.h"
#include "bench/gpu/graph_timer.h"
#include "bench/gpu/random_data.h"
#include "common/base/status_macros.h"
#include "kernels/cuda/device_memory.h"

namespace palimpsest::bench {
namespace {

constexpr uint64_t kBytes = uint64_t{2} << 30;
constexpr double kBudgetS = 0.1;
constexpr uint32_t kThreads = 512;
constexpr uint32_t kLoadsInFlight = 8;

// Every CTA reads one stretch of kThreads * kLoadsInFlight vectors and is gone: the scheduler keeps
// the memory busy without a loop.
__global__ void __launch_bounds__(kThreads) ReadKernel(const uint4* data, uint32_t* never) {
  const uint4* at = data + uint64_t{blockIdx.x} * kThreads * kLoadsInFlight + threadIdx.x;
  uint4 value[kLoadsInFlight];
#pragma unroll
  for (uint32_t i = 0; i < kLoadsInFlight; ++i) value[i] = __ldcs(at + i * kThreads);
  uint32_t sum = 0;
#pragma unroll
  for (uint32_t i = 0; i < kLoadsInFlight; ++i) {
    sum |= value[i].x ^ value[i].y ^ value[i].z ^ value[i].w;
  }
  if (sum == 0) *never = sum;  // never, but it keeps the loads
}

}  // namespace

absl::StatusOr<Ceilings> MeasureCeilings(cudaStream_t stream) {
  KV_ASSIGN_OR_RETURN(const cuda::DeviceBytes from,
                      cuda::AllocateDevice(kBytes, stream, "the ceilings' source"));
  KV_ASSIGN_OR_RETURN(const cuda::DeviceBytes to,
                      cuda::AllocateDevice(kBytes, stream, "the ceilings' target"));
  KV_RETURN_IF_ERROR(
      cuda::ToStatus(FillNormal(from.get(), kBytes / 2, 1.0f, 1, stream), "the ceilings' content"));
  Ceilings ceilings;
  // Not in a graph: there the copy engines carry it out, a fifth slower than the multiprocessors.
  KV_ASSIGN_OR_RETURN(const double copy_s, MedianSeconds(stream, kBudgetS, [&] {
                        return cuda::ToStatus(cudaMemcpyAsync(to.get(), from.get(), kBytes,
                                                              cudaMemcpyDeviceToDevice, stream),
                                              "the copy ceiling");
                      }));
  ceilings.copy_gbps = 2.0 * kBytes / copy_s / 1e9;
  KV_ASSIGN_OR_RETURN(
      const double read_s, MedianSeconds(stream, kBudgetS, [&] {
        constexpr uint32_t kCtas = kBytes / (kThreads * kLoadsInFlight * sizeof(uint4));
        ReadKernel<<<kCtas, kThreads, 0, stream>>>(reinterpret_cast<const uint4*>(from.get()),
                                                   reinterpret_cast<uint32_t*>(to.get()));
        return cuda::ToStatus(cudaGetLastError(), "the read ceiling");
      }));
  ceilings.read_gbps = kBytes / read_s / 1e9;
  return ceilings;
}

}  // namespace palimpsest::bench
