// SPDX-License-Identifier: Apache-2.0
#include <cstdint>

#include "bench/gpu/graph_timer.h"
#include "bench/gpu/tensor_ceiling.h"
#include "common/base/status_macros.h"
#include "kernels/cuda/book_products.cuh"
#include "kernels/cuda/device_memory.h"

namespace palimpsest::bench {
namespace {

constexpr int kDim = 128;
constexpr uint32_t kWarpgroups = 4;  // of a CTA
constexpr uint32_t kThreads = kWarpgroups * 128;
constexpr uint32_t kRounds = 4096;
constexpr double kBudgetS = 0.2;
constexpr double kOperations = 2.0 * 64 * cuda::kTileRows * kDim;  // of a warpgroup and round

__global__ void __launch_bounds__(kThreads, 1) MultiplyKernel(float* never) {
  __shared__ alignas(128) uint8_t tile[cuda::BookBytes(cuda::kTileRows, kDim)];
  for (uint32_t i = threadIdx.x; i < sizeof(tile) / 4; i += kThreads) {
    reinterpret_cast<uint32_t*>(tile)[i] = 0x3c003c00 ^ i * 2654435761u % 512;
  }
  __syncthreads();
  uint32_t weights[4][4];
  for (int i = 0; i < 16; ++i) weights[i / 4][i % 4] = 0x3c003c00 + threadIdx.x + i;
  float sums[kDim / 8][4] = {};
  for (uint32_t round = 0; round < kRounds; ++round) {
    cuda::BeginProducts();
    cuda::StartSums<kDim>(weights, tile, sums);
    cuda::EndProducts();
    cuda::UseProducts(sums);
  }
  if (sums[0][0] == -1.0f) *never = sums[0][0];  // never, but it keeps the sums
}

}  // namespace

absl::StatusOr<double> MeasureTensorCeiling(cudaStream_t stream) {
  int device = 0, multiprocessors = 0;
  KV_RETURN_IF_ERROR(cuda::ToStatus(cudaGetDevice(&device), "the device"));
  KV_RETURN_IF_ERROR(cuda::ToStatus(
      cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
      "count multiprocessors"));
  KV_ASSIGN_OR_RETURN(const cuda::DeviceBytes never,
                      cuda::AllocateDevice(sizeof(float), stream, "the tensor ceiling"));
  KV_ASSIGN_OR_RETURN(const double seconds, MedianSeconds(stream, kBudgetS, [&] {
                        MultiplyKernel<<<multiprocessors, kThreads, 0, stream>>>(
                            reinterpret_cast<float*>(never.get()));
                        return cuda::ToStatus(cudaGetLastError(), "the tensor ceiling");
                      }));
  return multiprocessors * kOperations * kWarpgroups * kRounds / seconds / 1e12;
}

}  // namespace palimpsest::bench
